using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>The GPU that a model will be computed on, and what of the model it holds.</summary>
/// <param name="Device">The GPU.</param>
/// <param name="Installation">What is there of CUDA.</param>
/// <param name="Plan">What the GPU holds, and which layers and experts stay on the CPU. Its reserve is none: <c>CapacityBytes</c> is what may be taken.</param>
/// <param name="Step">The largest step that there is memory for.</param>
/// <param name="CacheBytes">What is left for the KV cache beside weights and workspace; with the cache of layers on the CPU.</param>
/// <param name="IsLimited">Whether the capacity was asked for, and not found.</param>
internal sealed record GpuChoice(CudaDevice Device, CudaInstallation Installation, ErniePlan Plan, StepSize Step, long CacheBytes, bool IsLimited)
{
    public ErnieGpuPlan Memory => Plan.Gpus[0];
}
