using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>
/// Counts from what the engine asks of a GPU and from the routers' choices that come back, so that no step waits for it. Attention counts as dense: which blocks sparse attention keeps, the GPU does not tell.
/// </summary>
/// <remarks>The engine's thread calls <see cref="Observe"/>; <see cref="Take"/> may be called from any, between steps.</remarks>
internal sealed class CardMeter : ITrafficMeter
{
    private readonly Lock _gate = new();
    private readonly List<long> _expertBytes = [];
    private ErnieConfig? _config;
    private KvBlockLayout? _layout;
    private List<StepTraffic> _steps = [];
    private readonly List<int> _moeLayers = [];
    private int _distinctExperts, _lastLayer = -1;
    private bool[][] _touched = [];
    private long _weightBytes, _headBytes, _distinctBytes;
    private double _tokenOperations, _headOperations;

    public string Name => "cuda";

    /// <summary>Says what model is observed. Before its first step.</summary>
    public void Attach(ModelManifest manifest, KvElementType kvType)
    {
        var config = manifest.Config;
        (_config, _layout) = (config, new KvBlockLayout(kvType, config.KvHeadCount, config.HeadDim));
        var weights = ErnieGraph.Build(config, manifest.Formats).Weights;
        var head = weights.First(weight => weight.Name == (manifest.Formats.SharesEmbedding(config) ? TensorNames.Embedding : TensorNames.Head));
        (_headBytes, _headOperations) = (head.Bytes, 2.0 * head.Rows * head.Columns);
        foreach (var weight in weights.Where(weight => weight.Shape.Count == 2 && weight.Name is not (TensorNames.Embedding or TensorNames.Head)))
        {
            _weightBytes += weight.Bytes;
            _tokenOperations += 2.0 * weight.Rows * weight.Columns;
        }
        // Norms: two of each layer, and the last.
        _weightBytes += sizeof(float) * (2L * config.LayerCount + 1) * config.HiddenSize;
        var byName = weights.ToDictionary(static weight => weight.Name, StringComparer.Ordinal);
        for (var layer = 0; layer < config.LayerCount; layer++)
        {
            if (!config.IsMoeLayer(layer)) continue;
            _weightBytes += sizeof(float) * config.ExpertCount;
            _tokenOperations += 6.0 * config.ExpertsPerToken * config.HiddenSize * config.ExpertIntermediateSize;
            _moeLayers.Add(layer);
            _expertBytes.Add((byName[ErnieGraph.ExpertGateUp(layer)].Bytes + byName[ErnieGraph.ExpertDown(layer)].Bytes) / config.ExpertCount);
        }
        _touched = [.. _expertBytes.Select(_ => new bool[config.ExpertCount])];
    }

    /// <summary>A GPU's layers of a step were computed; with the last one, the step.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="layers">The GPU's layers.</param>
    /// <param name="selected">[mixture-of-experts layers, tokens, experts per token].</param>
    public void Observe(StepBatch batch, LayerRange layers, ReadOnlySpan<int> selected)
    {
        var config = _config!;
        var choices = batch.TokenCount * config.ExpertsPerToken;
        // Of a step that was broken off between two GPUs the first ones have told.
        if (layers.First <= _lastLayer) (_distinctExperts, _distinctBytes) = (0, 0);
        _lastLayer = layers.Last;
        lock (_gate)
        {
            for (var layer = 0; layer < _expertBytes.Count; layer++)
            {
                if (!layers.Contains(_moeLayers[layer])) continue;
                var experts = new HashSet<int>();
                foreach (var expert in selected.Slice(layer * choices, choices))
                {
                    experts.Add(expert);
                    _touched[layer][expert] = true;
                }
                _distinctExperts += experts.Count;
                _distinctBytes += experts.Count * _expertBytes[layer];
            }
        }
        if (layers.Last < config.LayerCount - 1) return;
        var traffic = new StepTraffic
        {
            Tokens = batch.TokenCount, Sequences = batch.SequenceCount, IsDecode = batch.Flags.TrueForAll(static flags => (flags & (int)SequenceFlags.Decode) != 0), MoeLayers = _expertBytes.Count,
            WeightBytes = _weightBytes + _distinctBytes + (batch.LogitRows.Count > 0 ? _headBytes : 0), DistinctExperts = _distinctExperts, Operations = batch.TokenCount * _tokenOperations + batch.LogitRows.Count * _headOperations,
        };
        for (var s = 0; s < batch.SequenceCount; s++)
        {
            var end = batch.SequenceStarts[s + 1];
            if (end > batch.SequenceStarts[s]) traffic.CacheBytes += (long)(batch.Positions[end - 1] + 1) * config.LayerCount * config.KvHeadCount * _layout!.ReadBytes / KvBlockLayout.BlockSize;
        }
        traffic.Operations += 4.0 * config.LayerCount * config.HeadCount * config.HeadDim * batch.Positions.Sum(static position => position + 1.0);
        lock (_gate) _steps.Add(traffic);
    }

    public (IReadOnlyList<StepTraffic> Steps, double TouchedExperts) Take()
    {
        lock (_gate)
        {
            var touched = _touched.Length == 0 ? 0 : _touched.Average(static layer => layer.Count(static t => t));
            foreach (var layer in _touched) Array.Clear(layer);
            var steps = _steps;
            _steps = [];
            return (steps, touched);
        }
    }

    public void Dispose()
    {
    }
}
