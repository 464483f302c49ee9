using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

internal static class KernelFamilies
{
    /// <summary>The family of this name; skips the test where the machine lacks it.</summary>
    public static CpuKernels Supported(string name)
    {
        var kernels = KernelRegistry.All.Single(kernels => kernels.Name == name);
        Assert.SkipUnless(kernels.IsSupported, $"This machine cannot run the {name} kernels.");
        return kernels;
    }
}
