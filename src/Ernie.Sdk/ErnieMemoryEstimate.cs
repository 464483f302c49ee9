using Ernie.Sdk.Engine;

namespace Ernie.Sdk;

/// <summary>What a model takes to run some conversations at once.</summary>
public sealed record ErnieMemoryEstimate
{
    internal ErnieMemoryEstimate(MemoryPlan plan)
    {
        WeightBytes = plan.WeightBytes;
        KvCacheBytes = plan.CacheBytes;
        WorkspaceBytes = plan.WorkspaceBytes;
    }

    /// <summary>Gets the size of the weights. They are mapped file pages, which processes share and the system can drop.</summary>
    public long WeightBytes { get; }

    /// <summary>Gets the size of the keys and values. Exact.</summary>
    public long KvCacheBytes { get; }

    /// <summary>Gets the size of activations and logits at their peak. An estimate from their shapes.</summary>
    public long WorkspaceBytes { get; }

    /// <summary>Gets the sum.</summary>
    public long TotalBytes => checked(WeightBytes + KvCacheBytes + WorkspaceBytes);
}
