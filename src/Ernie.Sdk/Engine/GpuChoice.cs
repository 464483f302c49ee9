using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>The GPU that a model will be computed on.</summary>
/// <param name="Device">The GPU.</param>
/// <param name="Installation">What is there of CUDA.</param>
/// <param name="CacheBytes">What its free memory leaves for the KV cache beside weights, workspace and reserve.</param>
internal sealed record GpuChoice(CudaDevice Device, CudaInstallation Installation, long CacheBytes);
