using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// What one GPU of several holds of a model, in bytes. Experts, KV heads with their query heads, the width of plain feed-forward layers and the rows of the vocabulary are divided; norms, routers and
/// correction biases stand on every GPU.
/// </summary>
/// <remarks>Every part is a weight of the exported graph cut down to its share, and has the size that the exporter would write for it: there is no formula for bytes here.</remarks>
internal sealed class GpuShare
{
    /// <summary>Width is divided in groups of the packed formats: a share begins where a scale begins.</summary>
    private const int WidthUnit = 128;

    private GpuShare() { }

    /// <summary>Embedding. Where it is the head too, ONNX Runtime looks tokens up in a copy of its own.</summary>
    public required long EmbeddingBytes { get; init; }
    /// <summary>Head and last norm.</summary>
    public required long HeadBytes { get; init; }
    public required IReadOnlyList<LayerShare> Layers { get; init; }

    public long WeightBytes => EmbeddingBytes + HeadBytes + Layers.Sum(static layer => layer.PlainBytes + layer.Experts * layer.ExpertBytes);

    /// <param name="config">The model.</param>
    /// <param name="weights">All weights of its graph.</param>
    /// <param name="cache">Element type of cached keys and values.</param>
    /// <param name="gpu">Which GPU.</param>
    /// <param name="gpuCount">Of how many; at most one for each KV head and expert.</param>
    /// <param name="isTied">Whether embedding and head are one matrix.</param>
    public static GpuShare Of(ErnieConfig config, IReadOnlyList<ExportedWeight> weights, KvElementType cache, int gpu, int gpuCount, bool isTied)
    {
        var rest = weights.ToDictionary(static weight => weight.Name, StringComparer.Ordinal);
        var kvHeads = Part(config.KvHeadCount, 1);
        var queries = kvHeads * (config.HeadCount / config.KvHeadCount);
        // Held by all: what is left over when every weight that is divided has been taken.
        long Take(string name, Func<ExportedWeight, ExportedWeight> cut) => rest.Remove(name, out var weight) && cut(weight) is var part && !part.Shape.Contains(0) ? part.Bytes : 0;
        long Whole(string name) => Take(name, static weight => weight);
        long Rows(string name, long rows) => Take(name, weight => weight with { Shape = [rows, weight.Columns] });
        long Columns(string name, long columns) => Take(name, weight => weight with { Shape = [weight.Rows, columns] });
        long Halves(string name, long width) => Take(name, weight => weight with { Shape = [2 * width, weight.Columns], SectionRows = width });
        long Part(long size, long unit)
        {
            var units = (size + unit - 1) / unit;
            return Math.Min(size, (gpu + 1) * units / gpuCount * unit) - Math.Min(size, gpu * units / gpuCount * unit);
        }

        var layers = new List<LayerShare>(config.LayerCount);
        for (var layer = 0; layer < config.LayerCount; layer++)
        {
            var plain = Rows(ErnieGraph.QueryKeyValue(layer), (queries + 2 * kvHeads) * config.HeadDim) + Columns(ErnieGraph.AttentionOutput(layer), queries * config.HeadDim)
                + Take(TensorNames.AttentionGate(layer), weight => weight with { Shape = [kvHeads, .. weight.Shape.Skip(1)] })
                + Whole(TensorNames.InputNorm(layer)) + Whole(TensorNames.PostAttentionNorm(layer)) + Whole(TensorNames.Router(layer)) + Whole(TensorNames.CorrectionBias(layer));
            foreach (var (gateUp, down, width) in new[]
            {
                (ErnieGraph.DenseGateUp(layer), ErnieGraph.DenseDown(layer), config.IntermediateSize),
                (ErnieGraph.SharedGateUp(layer), ErnieGraph.SharedDown(layer), config.SharedIntermediateSize),
            })
            {
                if (rest.ContainsKey(gateUp)) plain += Halves(gateUp, Part(width, WidthUnit)) + Columns(down, Part(width, WidthUnit));
            }
            var expert = Take(ErnieGraph.ExpertGateUp(layer), OneExpert) + Take(ErnieGraph.ExpertDown(layer), OneExpert);
            layers.Add(new LayerShare(plain, config.IsMoeLayer(layer) ? (int)Part(config.ExpertCount, 1) : 0, expert, kvHeads == 0 ? 0 : new KvBlockLayout(cache, (int)kvHeads, config.HeadDim).BlockBytes));
        }
        var vocabulary = Part(config.VocabSize, Quantization.PanelLayout.Rows);
        var embedding = Rows(TensorNames.Embedding, vocabulary);
        var head = (isTied ? embedding : Rows(TensorNames.Head, vocabulary)) + Whole(TensorNames.FinalNorm);
        if (rest.Count > 0) throw new InvalidOperationException($"{rest.Keys.First()} has no place in the plan.");
        return new GpuShare { EmbeddingBytes = embedding, HeadBytes = head, Layers = layers };

        static ExportedWeight OneExpert(ExportedWeight weight) => weight with { Shape = [1, .. weight.Shape.Skip(1)] };
    }
}

/// <summary>One layer of one GPU.</summary>
/// <param name="PlainBytes">All weights but routed experts.</param>
/// <param name="Experts">Routed experts here.</param>
/// <param name="ExpertBytes">Of one of them.</param>
/// <param name="BlockBytes">Of one block of the KV cache.</param>
internal readonly record struct LayerShare(long PlainBytes, int Experts, long ExpertBytes, long BlockBytes);
