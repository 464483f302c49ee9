using System.Numerics.Tensors;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>Sums of products of what a matrix is multiplied with.</summary>
internal static unsafe class SecondMoments
{
    /// <summary>[columns] E[x²].</summary>
    public static float[] Diagonal(TokenMatrix x)
    {
        var sums = new double[x.Columns];
        for (var t = 0; t < x.Tokens; t++)
        {
            var row = x.Row(t);
            for (var k = 0; k < row.Length; k++) sums[k] += (double)row[k] * row[k];
        }
        return [.. sums.Select(sum => (float)(sum / Math.Max(1, x.Tokens)))];
    }

    /// <summary>What rounding errors of a matrix with these inputs cost, correlations included as far as the tokens tell them.</summary>
    /// <param name="x">[tokens, columns]</param>
    /// <param name="prior">[columns] second moments that count as much as <paramref name="priorTokens"/> tokens, or null.</param>
    /// <param name="priorTokens">See there.</param>
    /// <param name="parallel">Threads.</param>
    public static ErrorMetric Metric(TokenMatrix x, float[]? prior, double priorTokens, IParallelRunner parallel)
    {
        var moments = Matrix(x, parallel);
        if (prior is not null)
        {
            var share = (float)(x.Tokens / (x.Tokens + priorTokens));
            for (var k = 0; k < prior.Length; k++)
            {
                var row = Row(moments, x.Columns, k);
                TensorPrimitives.Multiply(row, share, row);
                row[k] += (1 - share) * prior[k];
            }
        }
        // Of few tokens correlations are chance.
        return ErrorMetric.FromMoments(moments, x.Columns, x.Columns / (x.Columns + 2.0 * x.Tokens), parallel);
    }

    /// <summary>Lower triangle of [columns, columns] E[xᵀ x], floats; what lies above is not defined, and for the most part not even touched.</summary>
    public static ScratchBuffer Matrix(TokenMatrix x, IParallelRunner parallel)
    {
        // Tokens whose lines of all inputs fit into the caches.
        const int Chunk = 512;
        const int RowsPerItem = 16;
        var n = x.Columns;
        var matrix = new ScratchBuffer();
        var sums = (float*)matrix.Rent(checked((nint)n * n * sizeof(float)));
        for (var i = 0; i < n; i++) Row(matrix, n, i).Clear();
        // [columns, tokens of a chunk]: products of inputs are then dots of contiguous rows.
        using var transposed = new TokenMatrix(n, Chunk);
        for (var first = 0; first < x.Tokens; first += Chunk)
        {
            var count = Math.Min(Chunk, x.Tokens - first);
            transposed.Values.Clear();
            for (var t = 0; t < count; t++)
            {
                var row = x.Row(first + t);
                for (var k = 0; k < n; k++) transposed.Data[(nint)k * Chunk + t] = row[k];
            }
            var lines = (count + 15) / 16 * 16;
            parallel.For((n + RowsPerItem - 1) / RowsPerItem, item =>
            {
                var (begin, end) = (item * RowsPerItem, Math.Min(n, (item + 1) * RowsPerItem));
                // Lines of four inputs serve all rows of the item while they are in the nearest cache.
                for (var j = 0; j < end; j += 4)
                {
                    var b = transposed.Data + (nint)j * Chunk;
                    for (var i = Math.Max(begin, j); i < end; i++)
                    {
                        var a = transposed.Data + (nint)i * Chunk;
                        var sum = sums + (nint)i * n + j;
                        if (i >= j + 3) AddFour(a, b, lines, sum);
                        else
                        {
                            for (var k = j; k <= i; k++) sum[k - j] += Dot(a, b + (nint)(k - j) * Chunk, lines);
                        }
                    }
                }
            });
        }
        var scale = 1f / Math.Max(1, x.Tokens);
        for (var i = 0; i < n; i++) TensorPrimitives.Multiply(Row(matrix, n, i), scale, Row(matrix, n, i));
        return matrix;

        static void AddFour(float* a, float* b, int count, float* sums)
        {
            float* b1 = b + Chunk, b2 = b1 + Chunk, b3 = b2 + Chunk;
            Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default;
            for (var t = 0; t < count; t += 16)
            {
                var v = Vector512.Load(a + t);
                s0 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b + t), s0);
                s1 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b1 + t), s1);
                s2 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b2 + t), s2);
                s3 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b3 + t), s3);
            }
            sums[0] += Vector512.Sum(s0);
            sums[1] += Vector512.Sum(s1);
            sums[2] += Vector512.Sum(s2);
            sums[3] += Vector512.Sum(s3);
        }

        static float Dot(float* a, float* b, int count)
        {
            Vector512<float> sum = default;
            for (var t = 0; t < count; t += 16) sum = Vector512.FusedMultiplyAdd(Vector512.Load(a + t), Vector512.Load(b + t), sum);
            return Vector512.Sum(sum);
        }
    }

    /// <summary>A row's part of the lower triangle.</summary>
    private static Span<float> Row(ScratchBuffer matrix, int columns, int row) => new((float*)matrix.Rent(0) + (nint)row * columns, row + 1);
}
