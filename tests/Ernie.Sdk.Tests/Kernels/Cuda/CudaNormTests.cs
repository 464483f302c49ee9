using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>norm.cu</c>, emulated, against the formula.</summary>
public sealed unsafe class CudaNormTests
{
    private const float Epsilon = 1e-5f;

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 31)]
    [InlineData(2, 256)]
    [InlineData(5, 1000)]
    public void RmsNorm_EqualsFormula(int rows, int columns)
    {
        var cuda = CudaEmulation.Of("norm");
        var random = new Random(columns);
        using var x = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var weight = NativeArray<float>.From(RandomTensor.Floats(random, columns, 2));
        using var y = new NativeArray<float>(rows * columns);
        y.Span.Fill(float.NaN);
        cuda.Launch("rms_norm", (rows, 1, 1), 256, 32, x.Pointer, weight.Pointer, y.Pointer, columns, Epsilon);
        TensorAssert.Near(Formula(x.Span, weight.Span, columns), y.Span, 1e-7, 2e-6, $"{rows} × {columns}");
    }

    [Fact]
    public void AddRmsNorm_EqualsFormula()
    {
        const int rows = 3, columns = 700;
        var cuda = CudaEmulation.Of("norm");
        var random = new Random(1);
        using var a = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var b = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var weight = NativeArray<float>.From(RandomTensor.Floats(random, columns, 2));
        using NativeArray<float> sum = new(rows * columns), y = new(rows * columns);
        cuda.Launch("add_rms_norm", (rows, 1, 1), 256, 32, a.Pointer, b.Pointer, weight.Pointer, sum.Pointer, y.Pointer, columns, Epsilon);
        float[] expected = [.. a.Span.ToArray().Zip(b.Span.ToArray(), static (p, q) => p + q)];
        TensorAssert.SameBits(expected, sum.Span, "sum");
        TensorAssert.Near(Formula(expected, weight.Span, columns), y.Span, 1e-7, 2e-6, "norm");
    }

    private static float[] Formula(ReadOnlySpan<float> x, ReadOnlySpan<float> weight, int columns)
    {
        var y = new float[x.Length];
        for (var row = 0; row < x.Length; row += columns)
        {
            double sum = 0;
            for (var c = 0; c < columns; c++) sum += (double)x[row + c] * x[row + c];
            for (var c = 0; c < columns; c++) y[row + c] = (float)(x[row + c] / Math.Sqrt(sum / columns + Epsilon) * weight[c]);
        }
        return y;
    }
}
