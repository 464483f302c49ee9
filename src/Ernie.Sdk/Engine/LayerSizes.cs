using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>What the parts of a model take, in bytes.</summary>
/// <remarks>Every part is a weight of the exported graph, and has the size that the exporter writes for it: there is no formula for bytes here.</remarks>
internal sealed class LayerSizes
{
    // [layers + 1] of all layers before one.
    private readonly long[] _plain, _experts, _blocks;
    private readonly int[] _counts;
    private readonly long _embedding, _head;

    private LayerSizes(IReadOnlyList<LayerSize> layers, long embedding, long head)
    {
        (Layers, _embedding, _head) = (layers, embedding, head);
        (_plain, _experts, _blocks, _counts) = (new long[layers.Count + 1], new long[layers.Count + 1], new long[layers.Count + 1], new int[layers.Count + 1]);
        for (var layer = 0; layer < layers.Count; layer++)
        {
            _plain[layer + 1] = _plain[layer] + layers[layer].PlainBytes;
            _experts[layer + 1] = _experts[layer] + layers[layer].Experts * layers[layer].ExpertBytes;
            _blocks[layer + 1] = _blocks[layer] + layers[layer].BlockBytes;
            _counts[layer + 1] = _counts[layer] + layers[layer].Experts;
        }
    }

    public IReadOnlyList<LayerSize> Layers { get; }

    /// <summary>All weights of some layers but routed experts: with the first layer the embedding, with the last one norm and head. One matrix that is both is counted as two: ONNX Runtime looks tokens up in a copy of its own.</summary>
    public long PlainBytes(LayerRange layers) => Of(_plain, layers) + (layers.First == 0 ? _embedding : 0) + (layers.Last == Layers.Count - 1 ? _head : 0);

    /// <summary>All routed experts of some layers.</summary>
    public long ExpertBytes(LayerRange layers) => Of(_experts, layers);

    /// <summary>One block of the KV cache in some layers.</summary>
    public long BlockBytes(LayerRange layers) => Of(_blocks, layers);

    /// <summary>How many routed experts some layers have.</summary>
    public int Experts(LayerRange layers) => _counts[layers.Last + 1] - _counts[layers.First];

    /// <param name="config">The model.</param>
    /// <param name="formats">Formats of its matrices.</param>
    /// <param name="cache">Element type of cached keys and values.</param>
    public static LayerSizes Of(ErnieConfig config, ModelFormats formats, KvElementType cache)
    {
        var block = new KvBlockLayout(cache, config.KvHeadCount, config.HeadDim).BlockBytes;
        var ends = new Dictionary<string, long>(StringComparer.Ordinal) { [TensorNames.Embedding] = 0, [TensorNames.Head] = 0, [TensorNames.FinalNorm] = 0 };
        var layers = new List<LayerSize>(config.LayerCount);
        for (var layer = 0; layer < config.LayerCount; layer++)
        {
            var (plain, expert) = (0L, 0L);
            foreach (var weight in ErnieGraph.Build(config, formats, layers: new LayerRange(layer, layer)).Weights)
            {
                if (ends.ContainsKey(weight.Name)) ends[weight.Name] = weight.Bytes;
                else if (ErnieGraph.IsExperts(weight.Name)) expert += (weight with { Shape = [1, .. weight.Shape.Skip(1)] }).Bytes;
                else plain += weight.Bytes;
            }
            layers.Add(new LayerSize(plain, config.IsMoeLayer(layer) ? config.ExpertCount : 0, expert, block));
        }
        var head = formats.SharesEmbedding(config) ? ends[TensorNames.Embedding] : ends[TensorNames.Head];
        return new LayerSizes(layers, ends[TensorNames.Embedding], head + ends[TensorNames.FinalNorm]);
    }

    private static long Of(long[] before, LayerRange layers) => before[layers.Last + 1] - before[layers.First];
}

/// <summary>One layer.</summary>
/// <param name="PlainBytes">All weights but routed experts.</param>
/// <param name="Experts">Routed experts.</param>
/// <param name="ExpertBytes">Of one of them.</param>
/// <param name="BlockBytes">Of one block of the KV cache.</param>
internal readonly record struct LayerSize(long PlainBytes, int Experts, long ExpertBytes, long BlockBytes);
