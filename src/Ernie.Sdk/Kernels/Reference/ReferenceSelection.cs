using System.Numerics.Tensors;

namespace Ernie.Sdk.Kernels;

//  Selection of blocks (PLAS)
//      queries    [queries, headDim]   double    rotated, not scaled
//      summaries  [blocks, headDim]    double    one KV head's; the last block holds the queries
//  Math       score = q · summary, without mask. Each query bisects between its lowest and highest score for a threshold that left .. right blocks reach, at most six times,
//             and chooses what reaches the last one. Kept: whatever a query chose, block 0, and the newest block; in decode also the one before it
//  Source     FastDeploy's moba_attn, but for its 16-bit arithmetic and its uneven treatment of block edges
//  Reference  this file
//  Tolerance  the definition
internal static class ReferenceSelection
{
    public const int Rounds = 6;

    /// <param name="queries">One head's queries of a pack.</param>
    /// <param name="summaries">Means or gated sums.</param>
    /// <param name="limits">Of the sequence.</param>
    public static int[] Prefill(double[][] queries, double[][] summaries, SparseLimits limits)
    {
        var kept = Chosen(queries, summaries, limits.EncoderTopKLeft, limits.EncoderTopKRight);
        kept[0] = kept[^1] = true;
        return Indices(kept);
    }

    /// <param name="queries">One token's queries of all heads that share keys.</param>
    /// <param name="summaries">Means.</param>
    /// <param name="limits">Of the sequence.</param>
    public static int[] Decode(double[][] queries, double[][] summaries, SparseLimits limits)
    {
        var kept = Chosen(queries, summaries, limits.DecoderTopKLeft, limits.DecoderTopKRight);
        kept[0] = kept[^1] = true;
        if (kept.Length > 1) kept[^2] = true;
        return Indices(kept);
    }

    /// <summary>The union over the queries.</summary>
    private static bool[] Chosen(double[][] queries, double[][] summaries, int left, int right)
    {
        var chosen = new bool[summaries.Length];
        foreach (var query in queries)
        {
            var scores = Array.ConvertAll(summaries, summary => TensorPrimitives.Dot<double>(query, summary));
            var threshold = Threshold(scores, left, right);
            for (var j = 0; j < scores.Length; j++) chosen[j] |= scores[j] >= threshold;
        }
        return chosen;
    }

    private static double Threshold(double[] scores, int left, int right)
    {
        double low = scores.Min(), high = scores.Max(), threshold = low;
        for (var round = 0; round < Rounds && low < high; round++)
        {
            threshold = (low + high) / 2;
            var count = scores.Count(score => score >= threshold);
            if (count < left) high = threshold;
            else if (count > right) low = threshold;
            else break;
        }
        return threshold;
    }

    private static int[] Indices(bool[] kept) => [.. Enumerable.Range(0, kept.Length).Where(j => kept[j])];
}
