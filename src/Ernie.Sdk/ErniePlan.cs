using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk;

/// <summary>What a model takes on GPUs of a given size, what stays on the CPU, and what that leaves room for. Nothing is loaded and no GPU is asked.</summary>
/// <remarks>
/// Sizes of weights and cache are exact: those that the exporter writes and the engine reserves. Workspace and reserve are estimates. GPUs share experts, KV heads with their query heads, the width of
/// feed-forward layers and the vocabulary. Where all of it does not fit, routed experts stay on the CPU, about as many of each layer, so that each layer's GPU has those that are used most; where that does not help, the embedding and whole
/// layers with their cache do, the first ones first, and all but the last at most.
/// </remarks>
public sealed class ErniePlan
{
    private readonly ErnieConfig _config;
    private readonly ModelFormats _formats;
    private readonly KvElementType _kvType;
    private readonly ErniePlanOptions _options;
    private readonly IReadOnlyList<GpuShare> _shares;
    private readonly long _reserve;
    private readonly IReadOnlyList<ExportedWeight> _weights;
    private readonly int _mostExperts; // of a layer in the largest share
    private readonly Placement _placement;

    /// <param name="CpuLayers">Layers, from the first, that are on the CPU altogether, and the embedding with them.</param>
    /// <param name="CpuExperts">Experts of the largest share that are on the CPU, of all layers together.</param>
    private readonly record struct Placement(int CpuLayers, int CpuExperts);

    internal ErniePlan(ErnieConfig config, ModelFormats formats, ErniePlanOptions options)
    {
        if (options.GpuCount > config.KvHeadCount || (config.MoeLayerCount > 0 && options.GpuCount > config.ExpertCount))
            throw new ArgumentException($"The model has {config.KvHeadCount} KV heads{(config.MoeLayerCount > 0 ? $" and {config.ExpertCount} experts" : "")}; {options.GpuCount} GPUs cannot share them.", nameof(options));
        ContextLength = options.ContextLength ?? config.ContextLength;
        if (ContextLength > config.ContextLength) throw new ArgumentException($"The model has a context of {config.ContextLength} tokens; {ContextLength} are too many.", nameof(options));
        (_config, _formats, _options) = (config, formats, options);
        _kvType = ErnieModel.KvTypeOf(options.KvCacheType);
        _reserve = options.ReserveBytes ?? ReserveOf(options.GpuBytes);
        Requests = options.Requests;
        _weights = ErnieGraph.Build(config, formats).Weights;
        WeightFileBytes = WeightFileWriter.Plan(_weights).TotalBytes;
        _shares = [.. Enumerable.Range(0, options.GpuCount).Select(gpu => GpuShare.Of(config, _weights, _kvType, gpu, options.GpuCount, formats.SharesEmbedding(config)))];
        _mostExperts = _shares.Max(static share => share.Layers.Max(static layer => layer.Experts));
        var blocks = options.CacheBlocks ?? BlocksOf(ContextLength, Requests);
        var workspace = Workspace(ContextLength, Requests);
        (_placement, Fits) = Place(blocks, workspace);
        LeastBytes = _shares.Max(share => Taken(share, LeastOnGpu, blocks, workspace));
        var whole = MemoryPlan.For(config, formats, _kvType, ContextLength, Requests, options.PrefillChunkTokens);
        WeightBytes = whole.WeightBytes;
        KvCacheBytes = whole.CacheBytes;
        Gpus = [.. _shares.Select(share => new ErnieGpuPlan
        {
            WeightBytes = WeightsOf(share, _placement),
            KvCacheBytes = CacheOf(share, _placement, blocks),
            WorkspaceBytes = WorkspaceOf(_placement, workspace),
            ReserveBytes = _reserve,
            CapacityBytes = options.GpuBytes,
        })];
        CpuWeightBytes = _shares.Sum(share => share.WeightBytes - WeightsOf(share, _placement));
        CpuKvCacheBytes = _shares.Sum(share => CacheOf(share, default, blocks) - CacheOf(share, _placement, blocks));
        CpuExperts = CpuExpertsOf(_placement);
        CpuLayers = [.. Enumerable.Range(0, config.LayerCount).Where(layer => IsOnCpu(layer, _placement))];
    }

    /// <summary>Plans for an exported model or a checkpoint.</summary>
    /// <param name="path">The folder. Only headers are read.</param>
    /// <param name="options">GPUs, conversations, and the precisions of a checkpoint's export.</param>
    /// <exception cref="ArgumentException">The model cannot be shared by so many GPUs, or has no context of that length.</exception>
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
    /// <exception cref="ArgumentException">The model cannot be shared by so many GPUs, or has no context of that length.</exception>
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

    /// <summary>Gets what each GPU holds.</summary>
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

    /// <summary>What the largest share takes, reserve included, with all layers but the last on the CPU, and that one's routed experts: the least that this version runs in.</summary>
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
        return Largest(ErnieModelOptions.MostConcurrentRequests, requests => Holds(_placement, contextLength, requests));
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
        bool Try(Placement placement) => _shares.All(share => Taken(share, placement, blocks, workspace) <= _options.GpuBytes);
        if (Try(default)) return (default, true);
        if (Try(new Placement(0, AllExperts)))
        {
            var experts = 1;
            while (!Try(new Placement(0, experts))) experts++;
            return (new Placement(0, experts), true);
        }
        for (var layers = 1; layers < _config.LayerCount; layers++)
        {
            if (Try(new Placement(layers, AllExperts))) return (new Placement(layers, AllExperts), true);
        }
        return (LeastOnGpu, false);
    }

    private bool Holds(Placement placement, int contextLength, int requests)
    {
        var blocks = BlocksOf(contextLength, requests);
        // Of absurd numbers of requests the cache alone is too large.
        if (_shares.Any(share => Taken(share, placement, blocks, null) > _options.GpuBytes)) return false;
        var workspace = Workspace(contextLength, requests);
        return _shares.All(share => Taken(share, placement, blocks, workspace) <= _options.GpuBytes);
    }

    private Placement LeastOnGpu => new(_config.LayerCount - 1, AllExperts);

    private long Taken(GpuShare share, Placement placement, long blocks, GpuWorkspace? workspace) => checked(WeightsOf(share, placement) + CacheOf(share, placement, blocks) + WorkspaceOf(placement, workspace) + _reserve);

    private static long WorkspaceOf(Placement placement, GpuWorkspace? workspace) => workspace is null ? 0 : workspace.Bytes + (placement.CpuLayers > 0 ? workspace.HiddenBytes : 0);

    private GpuWorkspace Workspace(int contextLength, int requests) => GpuWorkspace.For(_config, _weights, _kvType, StepSize.Of(_options.PrefillChunkTokens, requests, contextLength));

    private static long BlocksOf(int contextLength, int requests) => (long)requests * KvCache.BlocksFor(contextLength);

    private static bool IsOnCpu(int layer, Placement placement) => layer < placement.CpuLayers;

    private long WeightsOf(GpuShare share, Placement placement)
    {
        var bytes = share.HeadBytes + (placement.CpuLayers > 0 ? 0 : share.EmbeddingBytes);
        var moe = 0;
        for (var layer = _config.LayerCount - 1; layer >= 0; layer--)
        {
            var part = share.Layers[layer];
            var away = _config.IsMoeLayer(layer) ? AwayOf(part.Experts, moe++, placement) : 0;
            if (!IsOnCpu(layer, placement)) bytes += part.PlainBytes + (part.Experts - away) * part.ExpertBytes;
        }
        return bytes;
    }

    private long CacheOf(GpuShare share, Placement placement, long blocks) =>
        checked(blocks * Enumerable.Range(0, _config.LayerCount).Where(layer => !IsOnCpu(layer, placement)).Sum(layer => share.Layers[layer].BlockBytes));

    private int AllExperts => _mostExperts * _config.MoeLayerCount;

    /// <summary>How many experts of a layer are on the CPU: as many in each, but not so few that the exchange with the CPU costs more than they do.</summary>
    /// <param name="experts">Experts of a share.</param>
    /// <param name="fromLast">0 for the last mixture-of-experts layer.</param>
    /// <param name="placement">What is where.</param>
    private int AwayOf(int experts, int fromLast, Placement placement)
    {
        // An eighth: arbitrary.
        var least = Math.Max(1, _mostExperts / 8);
        var layers = Math.Min(_config.MoeLayerCount, (placement.CpuExperts + least - 1) / least);
        if (fromLast >= layers) return 0;
        return Math.Min(experts, placement.CpuExperts / layers + (fromLast < placement.CpuExperts % layers ? 1 : 0));
    }

    private SortedDictionary<int, int> CpuExpertsOf(Placement placement)
    {
        var result = new SortedDictionary<int, int>();
        var moe = 0;
        for (var layer = _config.LayerCount - 1; layer >= 0; layer--)
        {
            if (!_config.IsMoeLayer(layer)) continue;
            var away = _shares.Sum(share => AwayOf(share.Layers[layer].Experts, moe, placement));
            if (away > 0) result.Add(layer, away);
            moe++;
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
