namespace Ernie.Sdk.Kernels;

/// <summary>
/// A family of GPU kernels: an implementation of every operator, under the same rules as <see cref="CpuKernels"/>. All pointers of the arguments, those of the weights too, are device memory.
/// </summary>
/// <remarks>Members launch on the context's stream and return; they neither wait nor allocate, but that the workspace grows, so a step of a size that was seen before can be captured as a CUDA graph.</remarks>
internal abstract class CudaKernels
{
    public abstract void AddRmsNorm(in AddRmsNormArguments arguments, in CudaKernelContext context);
    public abstract void Linear(in LinearArguments arguments, in CudaKernelContext context);
    public abstract void Attention(in AttentionArguments arguments, in CudaKernelContext context);
    public abstract void Experts(in ExpertsArguments arguments, in CudaKernelContext context);

    /// <summary>The router of a layer alone: what it chooses, for <see cref="Experts"/> of several devices.</summary>
    public abstract void Route(in ExpertsArguments arguments, in CudaKernelContext context);

    /// <summary>Adds another device's sum over its experts, [tokens, hidden], to the output.</summary>
    public abstract unsafe void AddPartial(float* part, in ExpertsArguments arguments, in CudaKernelContext context);
}

/// <summary>What every launch may use.</summary>
/// <param name="stream">ONNX Runtime's CUstream for the node.</param>
/// <param name="rope">Cosines and sines of every position, [positions, headDim / 2, 2] in device memory.</param>
/// <param name="workspace">Device memory for this call of an operator.</param>
/// <param name="step">The running step; null: nothing is known of it.</param>
internal readonly unsafe struct CudaKernelContext(nint stream, float* rope, CudaWorkspace workspace, CudaStep? step = null)
{
    public nint Stream => stream;
    public float* Rope => rope;
    public CudaWorkspace Workspace => workspace;
    public CudaStep? Step => step;
}
