namespace Ernie.Sdk;

/// <summary>What <see cref="ErniePlan"/> plans for.</summary>
public sealed class ErniePlanOptions
{
    /// <summary>Gets or sets the memory of one GPU.</summary>
    /// <value>In bytes. There is no default.</value>
    public required long GpuBytes { get; set; }

    /// <summary>Gets or sets how many GPUs of that size the model's layers are divided over.</summary>
    /// <value>The default is 1. At most one for each layer.</value>
    public int GpuCount { get; set; } = 1;

    /// <summary>Gets or sets the tokens of each conversation, prompt and answer together.</summary>
    /// <value>The default, <see langword="null"/>, is what the model was trained for (131,072).</value>
    public int? ContextLength { get; set; }

    /// <summary>Gets or sets how many such conversations run at once.</summary>
    /// <value>The default is 1.</value>
    public int Requests { get; set; } = 1;

    /// <summary>Gets or sets the element type of cached keys and values.</summary>
    /// <value>The default is <see cref="ErnieKvCacheType.BFloat16"/>.</value>
    public ErnieKvCacheType KvCacheType { get; set; }

    /// <summary>Gets or sets how many prompt tokens a step computes.</summary>
    /// <value>The default is 512.</value>
    public int PrefillChunkTokens { get; set; } = Engine.MemoryPlan.DefaultChunk;

    /// <summary>Gets or sets what is left free on each GPU for the driver's context, compiled kernels and fragmentation.</summary>
    /// <value>In bytes. The default, <see langword="null"/>, is 1 GiB and 2 % of the GPU, a guess that no GPU has confirmed yet.</value>
    public long? ReserveBytes { get; set; }

    /// <summary>Gets or sets the precisions of a model that is not exported yet. Those of an exported model are what they are.</summary>
    /// <value>The default is that of <see cref="ErnieExporter"/>: int4 in groups of 128, a quantised checkpoint as it is.</value>
    public ErnieExportOptions Export { get; set; } = new();

    /// <summary>Blocks of the KV cache, in place of those that <see cref="Requests"/> of <see cref="ContextLength"/> take.</summary>
    internal long? CacheBlocks { get; set; }

    /// <summary>Memory of each GPU, in place of <see cref="GpuBytes"/> of all.</summary>
    internal IReadOnlyList<long>? Capacities { get; set; }

    internal void Validate()
    {
        if (GpuBytes < 1) throw new ArgumentOutOfRangeException(nameof(GpuBytes), GpuBytes, "GpuBytes must be positive.");
        if (GpuCount < 1) throw new ArgumentOutOfRangeException(nameof(GpuCount), GpuCount, "GpuCount must be positive.");
        if (ContextLength is < 1) throw new ArgumentOutOfRangeException(nameof(ContextLength), ContextLength, "ContextLength must be positive.");
        if (Requests < 1) throw new ArgumentOutOfRangeException(nameof(Requests), Requests, "Requests must be positive.");
        if (PrefillChunkTokens < 1) throw new ArgumentOutOfRangeException(nameof(PrefillChunkTokens), PrefillChunkTokens, "PrefillChunkTokens must be positive.");
        if (ReserveBytes is < 0) throw new ArgumentOutOfRangeException(nameof(ReserveBytes), ReserveBytes, "ReserveBytes must not be negative.");
        if (!Enum.IsDefined(KvCacheType)) throw new ArgumentOutOfRangeException(nameof(KvCacheType), KvCacheType, "Use BFloat16, Float32 or Int8.");
        ArgumentNullException.ThrowIfNull(Export);
    }
}
