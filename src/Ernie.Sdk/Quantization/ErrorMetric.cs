using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// What a rounding error e [inputs] of one output costs: e · H · eᵀ, where H [inputs, inputs] is the second moment of what the matrix is multiplied with.
/// </summary>
/// <remarks>
/// Either the diagonal alone is known, m = E[x²], or all of H, as its factor H = Lᵀ · L with L lower triangular. Then (L · eᵀ) has, in its element j, the error of input j plus a multiple of the
/// errors of the inputs before it: what earlier inputs lost, later ones can make up for (error feedback; GPTQ and LDLQ are other ways to write it).
/// </remarks>
internal sealed class ErrorMetric
{
    /// <summary>Rows of the factor that are eliminated together: the trailing matrix is read once for all of them.</summary>
    private const int PanelRows = 16;

    private ErrorMetric(float[] moments, float[] importance, float[]? factor) => (Moments, Importance, Factor) = (moments, importance, factor);

    public int Columns => Importance.Length;

    /// <summary>[inputs] E[x²], the diagonal of H.</summary>
    public float[] Moments { get; }

    /// <summary>[inputs] m, every value positive. With a factor: the squares of its diagonal, which is what an error costs that later inputs make up for.</summary>
    public float[] Importance { get; }

    /// <summary>L [inputs, inputs], row-major, lower triangle; null where only the diagonal is known.</summary>
    public float[]? Factor { get; }

    public bool HasFeedback => Factor is not null;

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

    /// <param name="moments">[inputs, inputs] H, of which the lower triangle is read; overwritten.</param>
    /// <param name="columns">Inputs.</param>
    /// <param name="shrinkage">Share of the diagonal that replaces H outside it: 1 forgets all correlations. Few tokens need more.</param>
    /// <param name="parallel">Threads.</param>
    public static ErrorMetric FromMoments(double[] moments, int columns, double shrinkage, IParallelRunner parallel)
    {
        var diagonal = new float[columns];
        for (var k = 0; k < columns; k++) diagonal[k] = (float)moments[(long)k * columns + k];
        var floor = Floor(diagonal);
        var original = (float[])diagonal.Clone();
        for (var j = 0; j < columns; j++)
        {
            var row = moments.AsSpan(j * columns, j + 1);
            TensorPrimitives.Multiply(row[..j], 1 - shrinkage, row[..j]);
            // 1 % more on the diagonal: a matrix of few tokens has no full rank.
            row[j] = Math.Max(row[j] * 1.01, floor);
        }
        Factorise(moments, columns, parallel);
        var factor = new float[columns * columns];
        for (var j = 0; j < columns; j++)
        {
            for (var i = 0; i <= j; i++) factor[j * columns + i] = (float)moments[j * columns + i];
            diagonal[j] = factor[j * columns + j] * factor[j * columns + j];
        }
        return new ErrorMetric(original, diagonal, factor);
    }

    private static float Floor(ReadOnlySpan<float> moments)
    {
        double sum = 0;
        foreach (var m in moments) sum += Math.Sqrt(m);
        // Relative to the typical input: a mean of squares would be the few strong ones'.
        var typical = sum / moments.Length;
        return (float)Math.Max(1e-4 * typical * typical, 1e-30);
    }

    /// <summary>In place and from the last row up: H = Lᵀ · L. Rows above a panel of finished rows are updated for all of it at once.</summary>
    private static void Factorise(double[] h, int n, IParallelRunner parallel)
    {
        for (var end = n; end > 0; end -= PanelRows)
        {
            var begin = Math.Max(0, end - PanelRows);
            for (var j = end - 1; j >= begin; j--)
            {
                var row = h.AsSpan(j * n, j + 1);
                for (var k = j + 1; k < end; k++) Subtract(h.AsSpan(k * n, j + 1), h[k * n + j], row);
                if (!(row[j] > 0)) throw new InvalidOperationException("The second moments are not positive definite.");
                var pivot = Math.Sqrt(row[j]);
                TensorPrimitives.Divide(row, pivot, row);
            }
            var (first, last) = (begin, end);
            const int RowsPerItem = 16;
            parallel.For((first + RowsPerItem - 1) / RowsPerItem, item =>
            {
                for (var i = item * RowsPerItem; i < Math.Min(first, (item + 1) * RowsPerItem); i++) Eliminate(h, n, i, first, last);
            });
        }

        static void Subtract(ReadOnlySpan<double> row, double factor, Span<double> target) => TensorPrimitives.MultiplyAdd(row, -factor, target, target);
    }

    private static void Eliminate(double[] h, int n, int i, int first, int last)
    {
        ref var origin = ref MemoryMarshal.GetArrayDataReference(h);
        var target = (nuint)(i * n);
        var c = 0;
        for (; c + 8 <= i + 1; c += 8)
        {
            var sum = Vector512.LoadUnsafe(ref origin, target + (nuint)c);
            for (var k = first; k < last; k++)
            {
                var row = (nuint)(k * n);
                sum = Vector512.FusedMultiplyAdd(Vector512.Create(-h[k * n + i]), Vector512.LoadUnsafe(ref origin, row + (nuint)c), sum);
            }
            sum.StoreUnsafe(ref origin, target + (nuint)c);
        }
        for (; c <= i; c++)
        {
            var sum = h[i * n + c];
            for (var k = first; k < last; k++) sum = Math.FusedMultiplyAdd(-h[k * n + i], h[k * n + c], sum);
            h[i * n + c] = sum;
        }
    }
}
