using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed class KernelRegistryTests
{
    [Fact]
    public void Reference_IsLast() => Assert.IsType<ReferenceKernels>(KernelRegistry.All[^1]);

    [Fact]
    public void Choose_WithoutName_TakesTheFirstSupported() => Assert.Same(KernelRegistry.All.First(kernels => kernels.IsSupported), KernelRegistry.Choose(null));

    [Fact]
    public void Choose_ByName_TakesThatFamily() => Assert.Equal("reference", KernelRegistry.Choose("Reference").Name);

    [Fact]
    public void Choose_UnknownName_NamesTheKnownOnes()
    {
        var message = Assert.Throws<InvalidOperationException>(() => KernelRegistry.Choose("sse9")).Message;
        foreach (var kernels in KernelRegistry.All) Assert.Contains(kernels.Name, message, StringComparison.Ordinal);
    }
}
