using System.Globalization;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>The GPUs that a model will be computed on, and what of the model they hold.</summary>
/// <param name="Devices">The GPUs, in the order of their layers.</param>
/// <param name="Installation">What is there of CUDA.</param>
/// <param name="Plan">What each GPU holds, and which layers and experts stay on the CPU. Its reserve is none: <c>CapacityBytes</c> is what may be taken.</param>
/// <param name="Step">The largest step that there is memory for.</param>
/// <param name="CacheBytes">What the KV cache of all layers may take: as many blocks as the GPU with the least room for them has left beside weights and workspace.</param>
/// <param name="IsLimited">Whether the capacity was asked for, and not found.</param>
/// <param name="UsableCount">GPUs that could be used, these among them.</param>
internal sealed record GpuChoice(IReadOnlyList<CudaDevice> Devices, CudaInstallation Installation, ErniePlan Plan, StepSize Step, long CacheBytes, bool IsLimited, int UsableCount)
{
    /// <summary>One of them, in words. Several are often of one name.</summary>
    public string Describe(int number) => Describe(Devices, number);

    /// <inheritdoc cref="Describe(int)"/>
    public static string Describe(IReadOnlyList<CudaDevice> devices, int number) =>
        devices.Count == 1 ? CudaInstallation.Describe(devices[0]) : string.Create(CultureInfo.InvariantCulture, $"GPU {number}, {CudaInstallation.Describe(devices[number])}");
}
