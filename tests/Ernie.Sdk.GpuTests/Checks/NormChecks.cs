namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>The kernels of <c>norm.cu</c> against the formula.</summary>
internal static unsafe class NormChecks
{
    private const float Epsilon = 1e-5f;

    public static void RmsNorm(LaunchedKernels kernels, int rows, int columns, Findings findings)
    {
        var random = new Random(columns);
        using var x = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var weight = NativeArray<float>.From(RandomTensor.Floats(random, columns, 2));
        using var y = new NativeArray<float>(rows * columns);
        y.Span.Fill(float.NaN);
        kernels.RmsNorm(x.Pointer, weight.Pointer, y.Pointer, rows, columns, Epsilon);
        findings.Near(Formula(x.Span, weight.Span, columns), y.Span, 1e-7, 2e-6, $"{rows} × {columns}");
    }

    public static void AddRmsNorm(LaunchedKernels kernels, int rows, int columns, Findings findings)
    {
        var random = new Random(1);
        using var a = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var b = NativeArray<float>.From(RandomTensor.Floats(random, rows * columns, 4));
        using var weight = NativeArray<float>.From(RandomTensor.Floats(random, columns, 2));
        using NativeArray<float> sum = new(rows * columns), y = new(rows * columns);
        kernels.AddRmsNorm(a.Pointer, b.Pointer, weight.Pointer, sum.Pointer, y.Pointer, rows, columns, Epsilon);
        float[] expected = [.. a.Span.ToArray().Zip(b.Span.ToArray(), static (p, q) => p + q)];
        findings.SameBits(expected, sum.Span, "sum");
        findings.Near(Formula(expected, weight.Span, columns), y.Span, 1e-7, 2e-6, "norm");
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
