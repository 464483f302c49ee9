using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk;

/// <summary>What a model takes on GPUs of a given size, what stays on the CPU, and what that leaves room for. Nothing is loaded and no GPU is asked.</summary>
/// <remarks>
/// Sizes of weights and cache are exact: those that the exporter writes and the engine reserves. Workspace and reserve are estimates. Of several GPUs each has consecutive layers, the first one the embedding too and the last
/// one the head, divided so that the fullest is as little full as can be; a step goes through them one after another. Where all of it does not fit, routed experts stay on the CPU, of each GPU's layers about as many each, so
/// that each layer's GPU has those that are used most; where that does not help with all experts, the embedding and whole layers with their cache do, the first ones first, and all but one for each GPU at most. Each GPU then has as many of its layers' experts as it has room for.
/// </remarks>
public sealed class ErniePlan
{
    private readonly ErnieConfig _config;
    private readonly ModelFormats _formats;
    private readonly KvElementType _kvType;
    private readonly ErniePlanOptions _options;
    private readonly LayerSizes _sizes;
    private readonly IReadOnlyList<long> _capacities;
    private readonly long _reserve;
    private readonly IReadOnlyList<ExportedWeight> _weights;
    private readonly Placement _placement;

    /// <param name="CpuLayers">Layers, from the first, that are on the CPU altogether, and the embedding with them.</param>
    /// <param name="Gpus">Layers of each GPU.</param>
    /// <param name="CpuExperts">Experts of each GPU's layers that are on the CPU, of all of them together.</param>
    private sealed record Placement(int CpuLayers, IReadOnlyList<LayerRange> Gpus, IReadOnlyList<int> CpuExperts);

    internal ErniePlan(ErnieConfig config, ModelFormats formats, ErniePlanOptions options)
    {
        if (options.GpuCount > config.LayerCount) throw new ArgumentException($"The model has {config.LayerCount} layers; {options.GpuCount} GPUs cannot have one each.", nameof(options));
        ContextLength = options.ContextLength ?? config.ContextLength;
        if (ContextLength > config.ContextLength) throw new ArgumentException($"The model has a context of {config.ContextLength} tokens; {ContextLength} are too many.", nameof(options));
        (_config, _formats, _options) = (config, formats, options);
        _kvType = ErnieModel.KvTypeOf(options.KvCacheType);
        _reserve = options.ReserveBytes ?? ReserveOf(options.GpuBytes);
        Requests = options.Requests;
        _weights = ErnieGraph.Build(config, formats).Weights;
        WeightFileBytes = WeightFileWriter.Plan(_weights).TotalBytes;
        _sizes = LayerSizes.Of(config, formats, _kvType);
        _capacities = options.Capacities ?? [.. Enumerable.Repeat(options.GpuBytes, options.GpuCount)];
        var blocks = options.CacheBlocks ?? BlocksOf(ContextLength, Requests);
        var workspace = Workspace(ContextLength, Requests);
        (_placement, Fits) = Place(blocks, workspace);
        var least = LeastOnGpus;
        LeastBytes = least.Gpus.Max(layers => Taken(layers, ExpertsOf(layers), blocks, workspace));
        var whole = MemoryPlan.For(config, formats, _kvType, ContextLength, Requests, options.PrefillChunkTokens);
        WeightBytes = whole.WeightBytes;
        KvCacheBytes = whole.CacheBytes;
        Gpus = [.. _placement.Gpus.Select((layers, gpu) => new ErnieGpuPlan
        {
            FirstLayer = layers.First,
            LayerCount = layers.Count,
            WeightBytes = WeightsOf(layers, _placement.CpuExperts[gpu]),
            KvCacheBytes = CacheOf(layers, blocks),
            WorkspaceBytes = WorkspaceOf(layers, workspace),
            ReserveBytes = _reserve,
            CapacityBytes = _capacities[gpu],
        })];
        CpuWeightBytes = WeightsOf(new LayerRange(0, config.LayerCount - 1), 0) - Gpus.Sum(static gpu => gpu.WeightBytes);
        CpuLayers = [.. Enumerable.Range(0, _placement.CpuLayers)];
        CpuKvCacheBytes = CacheOf(new LayerRange(0, CpuLayers.Count - 1), blocks);
        CpuExperts = CpuExpertsOf(_placement);
    }

    /// <summary>Plans for an exported model or a checkpoint.</summary>
    /// <param name="path">The folder. Only headers are read.</param>
    /// <param name="options">GPUs, conversations, and the precisions of a checkpoint's export.</param>
    /// <exception cref="ArgumentException">The model has not so many layers as there are GPUs, or no context of that length.</exception>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="InvalidDataException">The folder holds no model, or a damaged one.</exception>
    /// <exception cref="NotSupportedException">The checkpoint cannot be exported like this.</exception>
    /// <exception cref="OverflowException">The sizes leave 63 bits.</exception>
    public static ErniePlan ForModel(string path, ErniePlanOptions options)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        var (config, formats) = Read(path, options.Export);
        return new ErniePlan(config, formats, options);
    }

    /// <summary>What a folder holds, or what an export of it would.</summary>
    internal static (ErnieConfig Config, ModelFormats Formats) Read(string path, ErnieExportOptions export)
    {
        if (File.Exists(Path.Combine(path, ModelManifest.FileName)))
        {
            var manifest = ModelManifest.Read(path);
            return (manifest.Config, manifest.Formats);
        }
        try
        {
            using var checkpoint = Checkpoint.Open(path);
            return (checkpoint.Config, ExportFormats.Of(checkpoint, export));
        }
        catch (FileNotFoundException e)
        {
            throw new InvalidDataException(e.Message, e);
        }
    }

    /// <summary>Plans for a released model, from its architecture alone.</summary>
    /// <param name="release">The model.</param>
    /// <param name="options">GPUs, conversations and precisions.</param>
    /// <exception cref="ArgumentException">The model has not so many layers as there are GPUs, or no context of that length.</exception>
    /// <exception cref="NotSupportedException">The model cannot be exported like this.</exception>
    /// <exception cref="OverflowException">The sizes leave 63 bits.</exception>
    public static ErniePlan ForRelease(ErnieRelease release, ErniePlanOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        var config = ReleasedShapes.Of(release);
        return new ErniePlan(config, ExportFormats.Of(new SyntheticWeights(config, 0), options.Export), options);
    }

    /// <summary>Gets the length of <c>model.weights</c>, gaps between tensors included.</summary>
    public long WeightFileBytes { get; }

    /// <summary>Gets the size of all weights of the model.</summary>
    public long WeightBytes { get; }

    /// <summary>Gets the size of the whole KV cache that was asked for.</summary>
    public long KvCacheBytes { get; }

    /// <summary>Gets the tokens of each conversation.</summary>
    public int ContextLength { get; }

    /// <summary>Gets how many conversations were asked for.</summary>
    public int Requests { get; }

    /// <summary>Gets whether what was asked for fits, with the CPU's help if need be. Otherwise as little as possible is planned for the GPUs, and that exceeds them.</summary>
    public bool Fits { get; }

    /// <summary>Gets whether everything is on the GPUs.</summary>
    public bool IsWhollyOnGpus => Fits && CpuExperts.Count == 0 && CpuLayers.Count == 0;

    /// <summary>Gets what each GPU holds, in the order in which a step goes through them.</summary>
    public IReadOnlyList<ErnieGpuPlan> Gpus { get; }

    /// <summary>Gets the layers that stay on the CPU altogether, with their cache.</summary>
    public IReadOnlyList<int> CpuLayers { get; }

    /// <summary>Gets how many routed experts of a layer stay on the CPU, by layer; layers that have all of theirs on GPUs are left out.</summary>
    public IReadOnlyDictionary<int, int> CpuExperts { get; }

    /// <summary>Gets the size of the weights that stay on the CPU.</summary>
    public long CpuWeightBytes { get; }

    /// <summary>Gets the size of the part of the KV cache that stays on the CPU.</summary>
    public long CpuKvCacheBytes { get; }

    /// <summary>Gets the weights' precisions in words.</summary>
    public string Precision => _formats.Describe(_config);

    /// <summary>What the fullest GPU takes, reserve included, with all layers but one for each GPU on the CPU, and those layers' routed experts: the least that this version runs in.</summary>
    internal long LeastBytes { get; }

    /// <summary>What is left free of a GPU unless something else is asked for.</summary>
    internal static long ReserveOf(long gpuBytes) => checked((1L << 30) + gpuBytes / 50);

    /// <summary>Which experts stay on the CPU, in words: "3 of layer 7, 64 of layers 8-27".</summary>
    internal string DescribeCpuExperts()
    {
        var (layers, runs) = (CpuExperts.OrderBy(static pair => pair.Key).ToList(), new List<string>());
        for (var first = 0; first < layers.Count;)
        {
            // Neighbouring layers with as many experts each, as one.
            var last = first;
            while (last + 1 < layers.Count && layers[last + 1].Key == layers[last].Key + 1 && layers[last + 1].Value == layers[first].Value) last++;
            runs.Add(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{layers[first].Value} of {(first == last ? $"layer {layers[first].Key}" : $"layers {layers[first].Key}-{layers[last].Key}")}"));
            first = last + 1;
        }
        return string.Join(", ", runs);
    }

    /// <summary>What stays on the CPU, in words: "layers 0-6 altogether, experts 64 of layers 7-27".</summary>
    internal string DescribeCpu()
    {
        var experts = CpuExperts.Count > 0 ? $"experts {DescribeCpuExperts()}" : "";
        if (CpuLayers.Count == 0) return experts;
        var layers = CpuLayers.Count == 1 ? "layer 0" : string.Create(System.Globalization.CultureInfo.InvariantCulture, $"layers 0-{CpuLayers[^1]}");
        return $"{layers} altogether{(experts.Length > 0 ? ", " : "")}{experts}";
    }

    /// <summary>Says how many conversations of a length fit at once, with weights where this plan has them.</summary>
    /// <param name="contextLength">Tokens of each.</param>
    /// <returns>0 if not even one does; 4,096 at most, which is what one model computes at once.</returns>
    public int MaxRequests(int contextLength)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(contextLength, 1);
        return contextLength > _config.ContextLength ? 0 : Largest(ErnieModelOptions.MostConcurrentRequests, requests => Holds(_placement, contextLength, requests));
    }

    /// <summary>Says how long conversations can be, with weights where this plan has them.</summary>
    /// <param name="requests">How many there are at once.</param>
    /// <returns>In tokens: a multiple of 128, or the model's context; 0 if there is no room.</returns>
    public int MaxContextLength(int requests)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(requests, 1);
        if (Holds(_placement, _config.ContextLength, requests)) return _config.ContextLength;
        return Largest(_config.ContextLength / KvBlockLayout.BlockSize, blocks => Holds(_placement, blocks * KvBlockLayout.BlockSize, requests)) * KvBlockLayout.BlockSize;
    }

    /// <summary>The most that fits first: experts come before layers, and of experts no more go than must.</summary>
    private (Placement Placement, bool Fits) Place(long blocks, GpuWorkspace workspace)
    {
        bool Holds(Placement placement) => !Overflows(placement, blocks, workspace);
        Placement With(int cpuLayers, bool experts) => Divide(cpuLayers, experts, blocks, workspace);

        var whole = With(0, experts: true);
        if (Holds(whole)) return (whole, true);
        // All layers as they would be on larger GPUs, or as their plain parts fit best.
        foreach (var layers in new[] { whole with { CpuExperts = [.. whole.Gpus.Select(ExpertsOf)] }, With(0, experts: false) })
        {
            if (Holds(layers)) return (Filled(layers, blocks, workspace), true);
        }
        for (var layers = 1; layers <= _config.LayerCount - _options.GpuCount; layers++)
        {
            var part = With(layers, experts: false);
            // One GPU that has no room for a layer more says nothing of the others.
            if (Holds(part)) return (Filled(part, blocks, workspace), true);
        }
        return (LeastOnGpus, false);
    }

    /// <summary>The same layers, with as many experts on each GPU as it has room for.</summary>
    private Placement Filled(Placement placement, long blocks, GpuWorkspace workspace) =>
        placement with { CpuExperts = [.. placement.Gpus.Select((range, gpu) => FewestAway(range, _capacities[gpu], blocks, workspace))] };

    /// <summary>Divides all layers but the first ones, in their order, so that the fullest GPU is as little full as can be.</summary>
    /// <param name="cpuLayers">The first ones, which are the CPU's.</param>
    /// <param name="experts">Whether routed experts are on the GPUs.</param>
    /// <param name="blocks">Of the cache.</param>
    /// <param name="workspace">Of a step.</param>
    private Placement Divide(int cpuLayers, bool experts, long blocks, GpuWorkspace workspace)
    {
        var (gpus, layers) = (_options.GpuCount, _config.LayerCount);
        // [GPUs, layers]: how full the fullest of the first GPUs is with the layers before this one, and where the last of those GPUs begins.
        var (fullest, begins) = (new double[gpus + 1, layers + 1], new int[gpus + 1, layers + 1]);
        for (var gpu = 1; gpu <= gpus; gpu++)
        {
            // Each has a layer at least, the first GPU begins behind the CPU's, and the last one has all that are left.
            for (var end = gpu == gpus ? layers : cpuLayers + gpu; end <= layers - gpus + gpu; end++)
            {
                fullest[gpu, end] = double.PositiveInfinity;
                for (var begin = cpuLayers + gpu - 1; begin < (gpu == 1 ? cpuLayers + 1 : end); begin++)
                {
                    var range = new LayerRange(begin, end - 1);
                    var full = Math.Max(fullest[gpu - 1, begin], Taken(range, experts ? 0 : ExpertsOf(range), blocks, workspace) / (double)_capacities[gpu - 1]);
                    if (full < fullest[gpu, end]) (fullest[gpu, end], begins[gpu, end]) = (full, begin);
                }
            }
        }
        var ranges = new LayerRange[gpus];
        for (var (gpu, end) = (gpus, layers); gpu > 0; gpu--)
        {
            ranges[gpu - 1] = new LayerRange(begins[gpu, end], end - 1);
            end = begins[gpu, end];
        }
        return new Placement(cpuLayers, ranges, [.. ranges.Select(range => experts ? 0 : ExpertsOf(range))]);
    }

    /// <summary>How many experts a GPU's layers must leave to the CPU.</summary>
    private int FewestAway(LayerRange layers, long capacity, long blocks, GpuWorkspace workspace)
    {
        var away = 0;
        while (Taken(layers, away, blocks, workspace) > capacity) away++;
        return away;
    }

    private bool Holds(Placement placement, int contextLength, int requests)
    {
        var blocks = BlocksOf(contextLength, requests);
        // Before launches are asked what such a step takes.
        return !Overflows(placement, blocks, null) && !Overflows(placement, blocks, Workspace(contextLength, requests));
    }

    private bool Overflows(Placement placement, long blocks, GpuWorkspace? workspace)
    {
        for (var gpu = 0; gpu < placement.Gpus.Count; gpu++)
        {
            // Of absurd numbers of requests the cache alone is too large, and its size no number.
            if (blocks > _capacities[gpu] / _sizes.BlockBytes(placement.Gpus[gpu]) || Taken(placement.Gpus[gpu], placement.CpuExperts[gpu], blocks, workspace) > _capacities[gpu]) return true;
        }
        return false;
    }

    /// <summary>One layer for each GPU, without its experts.</summary>
    private Placement LeastOnGpus
    {
        get
        {
            var first = _config.LayerCount - _options.GpuCount;
            var ranges = Enumerable.Range(first, _options.GpuCount).Select(static layer => new LayerRange(layer, layer)).ToList();
            return new Placement(first, ranges, [.. ranges.Select(ExpertsOf)]);
        }
    }

    private long Taken(LayerRange layers, int away, long blocks, GpuWorkspace? workspace) => checked(WeightsOf(layers, away) + CacheOf(layers, blocks) + WorkspaceOf(layers, workspace) + _reserve);

    private long WorkspaceOf(LayerRange layers, GpuWorkspace? workspace) => workspace is null ? 0 : workspace.BytesOf(layers.First == 0, layers.Last == _config.LayerCount - 1);

    private GpuWorkspace Workspace(int contextLength, int requests) => GpuWorkspace.For(_config, _weights, _kvType, StepSize.Of(_options.PrefillChunkTokens, requests, contextLength));

    private static long BlocksOf(int contextLength, int requests) => (long)requests * KvCache.BlocksFor(contextLength);

    private long WeightsOf(LayerRange layers, int away)
    {
        if (away == ExpertsOf(layers)) return _sizes.PlainBytes(layers);
        return _sizes.PlainBytes(layers) + _sizes.ExpertBytes(layers) - AwayOf(layers, away).Sum(part => part.Experts * _sizes.Layers[part.Layer].ExpertBytes);
    }

    private long CacheOf(LayerRange layers, long blocks) => checked(blocks * _sizes.BlockBytes(layers));

    /// <summary>Routed experts of some layers.</summary>
    private int ExpertsOf(LayerRange layers) => _sizes.Experts(layers);

    /// <summary>How many experts of which layers of a GPU are on the CPU: as many in each, but not so few that the exchange with the CPU costs more than they do; then only the last layers have some there.</summary>
    /// <param name="range">The GPU's layers.</param>
    /// <param name="away">Experts on the CPU, of all of them.</param>
    private IEnumerable<(int Layer, int Experts)> AwayOf(LayerRange range, int away)
    {
        if (away == 0) yield break;
        // An eighth: arbitrary.
        var least = Math.Max(1, _config.ExpertCount / 8);
        var sharing = Math.Min(ExpertsOf(range) / _config.ExpertCount, (away + least - 1) / least);
        for (var (layer, fromLast) = (range.Last, 0); fromLast < sharing; layer--)
        {
            if (!_config.IsMoeLayer(layer)) continue;
            yield return (layer, Math.Min(_sizes.Layers[layer].Experts, away / sharing + (fromLast < away % sharing ? 1 : 0)));
            fromLast++;
        }
    }

    private SortedDictionary<int, int> CpuExpertsOf(Placement placement)
    {
        var result = new SortedDictionary<int, int>();
        for (var layer = 0; layer < placement.CpuLayers; layer++)
        {
            if (_config.IsMoeLayer(layer)) result.Add(layer, _config.ExpertCount);
        }
        for (var gpu = 0; gpu < placement.Gpus.Count; gpu++)
        {
            foreach (var (layer, experts) in AwayOf(placement.Gpus[gpu], placement.CpuExperts[gpu])) result.Add(layer, experts);
        }
        return result;
    }

    /// <summary>The largest number for which something holds that holds for no number above one for which it does not; 0 if for none.</summary>
    private static int Largest(int most, Func<int, bool> holds)
    {
        var (least, limit) = (0, most);
        while (least < limit)
        {
            var middle = least + (limit - least + 1) / 2;
            if (holds(middle)) least = middle;
            else limit = middle - 1;
        }
        return least;
    }
}
