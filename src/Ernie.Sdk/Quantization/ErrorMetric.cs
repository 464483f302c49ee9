using System.Numerics.Tensors;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// What a rounding error e [inputs] of one output costs: e · H · eᵀ, where H [inputs, inputs] is the second moment of what the matrix is multiplied with.
/// </summary>
/// <remarks>
/// Either the diagonal alone is known, m = E[x²], or all of H, as its factor H = Lᵀ · L with L lower triangular. Then (L · eᵀ) has, in its element j, the error of input j plus a multiple of the
/// errors of the inputs before it: what earlier inputs lost, later ones can make up for (error feedback; GPTQ and LDLQ are other ways to write it).
/// Float is enough: with its shrinkage H is never near singular. The factor is unmanaged, because one of 12,288 inputs has 600 MB and garbage of that size stays for long.
/// </remarks>
internal sealed unsafe class ErrorMetric : IDisposable
{
    /// <summary>Rows of the factor that are eliminated together: the trailing matrix is read once for all of them.</summary>
    private const int PanelRows = 16;

    private readonly ScratchBuffer? _factor;

    private ErrorMetric(float[] moments, float[] importance, ScratchBuffer? factor) => (Moments, Importance, _factor) = (moments, importance, factor);

    public int Columns => Importance.Length;

    /// <summary>[inputs] E[x²], the diagonal of H.</summary>
    public float[] Moments { get; }

    /// <summary>[inputs] m, every value positive. With a factor: the squares of its diagonal, which is what an error costs that later inputs make up for.</summary>
    public float[] Importance { get; }

    /// <summary>L [inputs, inputs], row-major, of which the lower triangle is defined; null where only the diagonal is known. Good until disposal.</summary>
    public float* Factor => _factor is null ? null : (float*)_factor.Rent(0);

    public bool HasFeedback => _factor is not null;

    /// <summary>Every input counts the same.</summary>
    public static ErrorMetric Uniform(int columns)
    {
        var importance = new float[columns];
        importance.AsSpan().Fill(1);
        return new ErrorMetric(importance, importance, null);
    }

    /// <param name="moments">[inputs] E[x²]. Inputs that never fired keep a little weight, so that their weights are still rounded to something near.</param>
    public static ErrorMetric FromMoments(ReadOnlySpan<float> moments)
    {
        var importance = moments.ToArray();
        var floor = Floor(importance);
        for (var k = 0; k < importance.Length; k++) importance[k] = Math.Max(importance[k], floor);
        return new ErrorMetric(importance, importance, null);
    }

    /// <param name="moments">[inputs, inputs] H, floats of which the lower triangle is read; the metric's from now on.</param>
    /// <param name="columns">Inputs.</param>
    /// <param name="shrinkage">Share of the diagonal that replaces H outside it: 1 forgets all correlations. Few tokens need more.</param>
    /// <param name="parallel">Threads.</param>
    public static ErrorMetric FromMoments(ScratchBuffer moments, int columns, double shrinkage, IParallelRunner parallel)
    {
        var h = (float*)moments.Rent(0);
        var diagonal = new float[columns];
        for (var k = 0; k < columns; k++) diagonal[k] = h[(nint)k * columns + k];
        var floor = Floor(diagonal);
        var original = (float[])diagonal.Clone();
        for (var j = 0; j < columns; j++)
        {
            var row = Row(h, columns, j, j + 1);
            TensorPrimitives.Multiply(row[..j], (float)(1 - shrinkage), row[..j]);
            // 1 % more on the diagonal: a matrix of few tokens has no full rank.
            row[j] = Math.Max(row[j] * 1.01f, floor);
        }
        Factorise(h, columns, parallel);
        for (var j = 0; j < columns; j++) diagonal[j] = h[(nint)j * columns + j] * h[(nint)j * columns + j];
        return new ErrorMetric(original, diagonal, moments);
    }

    public void Dispose() => _factor?.Dispose();

    private static Span<float> Row(float* h, int columns, int row, int count) => new(h + (nint)row * columns, count);

    private static float Floor(ReadOnlySpan<float> moments)
    {
        double sum = 0;
        foreach (var m in moments) sum += Math.Sqrt(m);
        // Relative to the typical input: a mean of squares would be the few strong ones'.
        var typical = sum / moments.Length;
        return (float)Math.Max(1e-4 * typical * typical, 1e-30);
    }

    /// <summary>In place and from the last row up: H = Lᵀ · L. Rows above a panel of finished rows are updated for all of it at once.</summary>
    private static void Factorise(float* h, int n, IParallelRunner parallel)
    {
        for (var end = n; end > 0; end -= PanelRows)
        {
            var begin = Math.Max(0, end - PanelRows);
            for (var j = end - 1; j >= begin; j--)
            {
                var row = Row(h, n, j, j + 1);
                for (var k = j + 1; k < end; k++) Subtract(Row(h, n, k, j + 1), h[(nint)k * n + j], row);
                if (!(row[j] > 0)) throw new InvalidOperationException("The second moments are not positive definite.");
                var pivot = MathF.Sqrt(row[j]);
                TensorPrimitives.Divide(row, pivot, row);
            }
            var (first, last) = (begin, end);
            const int RowsPerItem = 16;
            parallel.For((first + RowsPerItem - 1) / RowsPerItem, item =>
            {
                for (var i = item * RowsPerItem; i < Math.Min(first, (item + 1) * RowsPerItem); i++) Eliminate(h, n, i, first, last);
            });
        }

        static void Subtract(ReadOnlySpan<float> row, float factor, Span<float> target) => TensorPrimitives.MultiplyAdd(row, -factor, target, target);
    }

    private static void Eliminate(float* h, int n, int i, int first, int last)
    {
        var target = h + (nint)i * n;
        var c = 0;
        for (; c + 16 <= i + 1; c += 16)
        {
            var sum = Vector512.Load(target + c);
            for (var k = first; k < last; k++)
            {
                var row = h + (nint)k * n;
                sum = Vector512.FusedMultiplyAdd(Vector512.Create(-row[i]), Vector512.Load(row + c), sum);
            }
            sum.Store(target + c);
        }
        for (; c <= i; c++)
        {
            var sum = target[c];
            for (var k = first; k < last; k++) sum = MathF.FusedMultiplyAdd(-h[(nint)k * n + i], h[(nint)k * n + c], sum);
            target[c] = sum;
        }
    }
}
