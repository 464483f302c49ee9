namespace Ernie.Sdk.Kernels;

/// <summary>All kernel families, best first. The only place that knows the hardware; product, tests and benchmarks choose from it.</summary>
internal static class KernelRegistry
{
    /// <summary>Names a family to use instead of the best supported one.</summary>
    public const string EnvironmentVariable = "ERNIE_KERNELS";

    public static IReadOnlyList<CpuKernels> All { get; } = [];

    public static CpuKernels Choose() => throw new NotImplementedException();
}
