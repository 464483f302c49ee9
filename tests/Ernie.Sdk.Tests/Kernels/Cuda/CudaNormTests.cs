using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>norm.cu</c>, emulated, against the formula.</summary>
public sealed class CudaNormTests
{
    private static readonly EmulatedCudaKernels s_kernels = new();

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 31)]
    [InlineData(2, 256)]
    [InlineData(5, 1000)]
    public void RmsNorm_EqualsFormula(int rows, int columns)
    {
        CudaEmulation.Of("norm");
        FindingsAssert.None(findings => NormChecks.RmsNorm(s_kernels, rows, columns, findings));
    }

    [Fact]
    public void AddRmsNorm_EqualsFormula()
    {
        CudaEmulation.Of("norm");
        FindingsAssert.None(static findings => NormChecks.AddRmsNorm(s_kernels, 3, 700, findings));
    }
}
