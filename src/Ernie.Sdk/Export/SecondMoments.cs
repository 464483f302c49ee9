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
            var share = x.Tokens / (x.Tokens + priorTokens);
            TensorPrimitives.Multiply<double>(moments, share, moments);
            for (var k = 0; k < prior.Length; k++) moments[(long)k * x.Columns + k] += (1 - share) * prior[k];
        }
        // Of few tokens correlations are chance.
        return ErrorMetric.FromMoments(moments, x.Columns, x.Columns / (x.Columns + 2.0 * x.Tokens), parallel);
    }

    /// <summary>Lower triangle of [columns, columns] E[xᵀ x].</summary>
    public static double[] Matrix(TokenMatrix x, IParallelRunner parallel)
    {
        // Sums of this many tokens are float; their sum is double.
        const int Chunk = 512;
        const int RowsPerItem = 8;
        var n = x.Columns;
        var sums = new double[(long)n * n];
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
                for (var i = item * RowsPerItem; i < Math.Min(n, (item + 1) * RowsPerItem); i++)
                {
                    var a = transposed.Data + (nint)i * Chunk;
                    var j = 0;
                    for (; j + 4 <= i + 1; j += 4)
                    {
                        float* b0 = transposed.Data + (nint)j * Chunk, b1 = b0 + Chunk, b2 = b1 + Chunk, b3 = b2 + Chunk;
                        Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default;
                        for (var t = 0; t < lines; t += 16)
                        {
                            var v = Vector512.Load(a + t);
                            s0 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b0 + t), s0);
                            s1 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b1 + t), s1);
                            s2 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b2 + t), s2);
                            s3 = Vector512.FusedMultiplyAdd(v, Vector512.Load(b3 + t), s3);
                        }
                        sums[i * n + j] += Vector512.Sum(s0);
                        sums[i * n + j + 1] += Vector512.Sum(s1);
                        sums[i * n + j + 2] += Vector512.Sum(s2);
                        sums[i * n + j + 3] += Vector512.Sum(s3);
                    }
                    for (; j <= i; j++)
                    {
                        Vector512<float> s = default;
                        var b = transposed.Data + (nint)j * Chunk;
                        for (var t = 0; t < lines; t += 16) s = Vector512.FusedMultiplyAdd(Vector512.Load(a + t), Vector512.Load(b + t), s);
                        sums[i * n + j] += Vector512.Sum(s);
                    }
                }
            });
        }
        var scale = 1.0 / Math.Max(1, x.Tokens);
        for (var i = 0; i < sums.Length; i++) sums[i] *= scale;
        return sums;
    }
}
