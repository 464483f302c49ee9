using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>norm.cu</c>, emulated, against the reference kernel.</summary>
public sealed class CudaNormTests
{
    private static readonly EmulatedCudaKernels s_kernels = new();

    [Fact]
    public void AddRmsNorm_EqualsReference()
    {
        CudaEmulation.Of("norm");
        foreach (var (tokens, columns) in NormChecks.Shapes) FindingsAssert.None(findings => NormChecks.EqualsReference(s_kernels, SerialRunner.Instance, tokens, columns, findings));
    }

    [Theory]
    [InlineData(70)]
    [InlineData(256)]
    [InlineData(2560)]
    public void WhatItQuantises_IsWhatProductsWould(int columns)
    {
        CudaEmulation.Of("norm");
        CudaEmulation.Of("linear");
        FindingsAssert.None(findings => NormChecks.QuantisesAsProductsDo(s_kernels, 3, columns, findings));
    }
}
