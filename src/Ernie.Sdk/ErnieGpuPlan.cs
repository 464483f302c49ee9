namespace Ernie.Sdk;

/// <summary>What one GPU of an <see cref="ErniePlan"/> holds.</summary>
public sealed record ErnieGpuPlan
{
    internal ErnieGpuPlan() { }

    internal Checkpoints.LayerRange Layers => new(FirstLayer, FirstLayer + LayerCount - 1);

    /// <summary>Gets the first layer that it has; 0 for the model's first one.</summary>
    public required int FirstLayer { get; init; }

    /// <summary>Gets how many layers it has, from <see cref="FirstLayer"/> on.</summary>
    public required int LayerCount { get; init; }

    /// <summary>Gets the size of its weights. Exact. A model with one matrix for embedding and head has it twice on GPUs.</summary>
    public required long WeightBytes { get; init; }

    /// <summary>Gets the size of its part of the KV cache. Exact.</summary>
    public required long KvCacheBytes { get; init; }

    /// <summary>Gets the size of activations, scratch memory, logits and rotary angles at their peak. What ONNX Runtime takes of it is an estimate.</summary>
    public required long WorkspaceBytes { get; init; }

    /// <summary>Gets what is left free for the driver's context, compiled kernels and fragmentation.</summary>
    public required long ReserveBytes { get; init; }

    /// <summary>Gets the GPU's memory.</summary>
    public required long CapacityBytes { get; init; }

    /// <summary>Gets what is left over; negative where the model does not fit.</summary>
    public long FreeBytes => CapacityBytes - WeightBytes - KvCacheBytes - WorkspaceBytes - ReserveBytes;
}
