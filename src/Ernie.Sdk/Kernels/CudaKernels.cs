using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Kernels;

/// <summary>
/// A family of GPU kernels: an implementation of every operator, under the same rules as <see cref="CpuKernels"/>. All pointers of the arguments, those of the weights too, are device memory.
/// </summary>
/// <remarks>Members launch on the context's stream and return; they neither wait nor allocate but by <see cref="CudaKernelContext.Scratch"/>, so a step can be captured as a CUDA graph.</remarks>
internal abstract class CudaKernels
{
    public abstract void Linear(in LinearArguments arguments, in CudaKernelContext context);
    public abstract void Attention(in AttentionArguments arguments, in CudaKernelContext context);
    public abstract void Experts(in ExpertsArguments arguments, in CudaKernelContext context);
}

/// <summary>What every launch may use.</summary>
/// <param name="call">The node's call.</param>
/// <param name="memory">The device, for scratch memory.</param>
/// <param name="rope">Cosines and sines of every position, [positions, headDim / 2, 2] in device memory.</param>
internal readonly unsafe struct CudaKernelContext(OrtComputeContext call, OrtMemoryInfo memory, float* rope)
{
    /// <summary>ONNX Runtime's CUstream for this node.</summary>
    public nint Stream { get; } = call.GpuStream;
    public float* Rope => rope;

    /// <summary>Device memory until it is disposed, which may be as soon as what uses it has been launched.</summary>
    public OrtScratch Scratch(long bytes) => call.Scratch(memory, bytes);
}
