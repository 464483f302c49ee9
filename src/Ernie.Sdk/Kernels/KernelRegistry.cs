namespace Ernie.Sdk.Kernels;

/// <summary>All kernel families, best first. The only place that knows the hardware; product, tests and benchmarks choose from it.</summary>
internal static class KernelRegistry
{
    /// <summary>Names a family to use instead of the best supported one.</summary>
    public const string EnvironmentVariable = "ERNIE_KERNELS";

    public static IReadOnlyList<CpuKernels> All { get; } =
    [
        new VectorKernels<Lanes512>(),
        new VectorKernels<Lanes256>(),
        new VectorKernels<Lanes128>(),
        new ReferenceKernels(),
    ];

    /// <summary>The family that <see cref="EnvironmentVariable"/> names, or the best supported one.</summary>
    public static CpuKernels Choose() => Choose(Environment.GetEnvironmentVariable(EnvironmentVariable));

    /// <exception cref="InvalidOperationException">No family has this name, or this machine cannot run it.</exception>
    public static CpuKernels Choose(string? name)
    {
        if (string.IsNullOrWhiteSpace(name)) return All.First(kernels => kernels.IsSupported);
        var chosen = All.FirstOrDefault(kernels => string.Equals(kernels.Name, name.Trim(), StringComparison.OrdinalIgnoreCase));
        if (chosen is { IsSupported: true }) return chosen;
        var problem = chosen is null ? "no kernels have that name" : "this machine cannot run them";
        var supported = string.Join(", ", All.Where(kernels => kernels.IsSupported).Select(kernels => kernels.Name));
        throw new InvalidOperationException(
            $"{EnvironmentVariable} is '{name}', but {problem}. Known: {string.Join(", ", All.Select(kernels => kernels.Name))}; supported here: {supported}.");
    }
}
