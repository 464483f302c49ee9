namespace Ernie.Sdk.Engine;

/// <summary>
/// Finds places in the order "largest weight first, equal ones by id" without sorting: a flat distribution over 100,000 tokens would spend more time in a sort than in a small model.
/// </summary>
/// <remarks>Positive floats are ordered as their bits are, so three histograms of ten bits narrow the candidates down to those of one weight.</remarks>
internal sealed class WeightRanking(int capacity)
{
    private const int BucketBits = 10;
    private readonly double[] _sums = new double[1 << BucketBits];
    private readonly int[] _rest = new int[capacity];

    /// <summary>The candidate at whose place the running sum of weights reaches <paramref name="target"/>; the last one if none does.</summary>
    /// <param name="weights">Weights by id, in (0, 1].</param>
    /// <param name="ids">Candidates in rising order, at least one.</param>
    /// <param name="target">Sum to reach.</param>
    public int FindSum(ReadOnlySpan<float> weights, ReadOnlySpan<int> ids, double target) => Find<Weight>(weights, ids, target);

    /// <summary>The candidate at place <paramref name="rank"/>, counted from 1.</summary>
    public int FindRank(ReadOnlySpan<float> weights, ReadOnlySpan<int> ids, int rank) => Find<One>(weights, ids, rank);

    private int Find<TMeasure>(ReadOnlySpan<float> weights, ReadOnlySpan<int> ids, double target) where TMeasure : IMeasure
    {
        double before = 0; // what stands above the candidates that are left
        for (var shift = 2 * BucketBits; shift >= 0 && ids.Length > 1; shift -= BucketBits)
        {
            Array.Clear(_sums);
            foreach (var id in ids) _sums[Bucket(weights[id], shift)] += TMeasure.Of(weights[id]);
            var bucket = Reach(target, ref before);
            var count = 0;
            foreach (var id in ids)
            {
                _rest[count] = id;
                if (Bucket(weights[id], shift) == bucket) count++;
            }
            ids = _rest.AsSpan(0, count);
        }
        foreach (var id in ids)
        {
            before += TMeasure.Of(weights[id]);
            if (before >= target) return id;
        }
        return ids[^1];
    }

    /// <summary>The bucket in which the sum is reached, else the lowest one that is not empty: rounding must not lead out of the candidates.</summary>
    private int Reach(double target, ref double before)
    {
        var (lowest, beforeLowest) = (-1, before);
        for (var bucket = _sums.Length - 1; bucket >= 0; bucket--)
        {
            if (_sums[bucket] == 0) continue;
            (lowest, beforeLowest) = (bucket, before);
            if (before + _sums[bucket] >= target) return bucket;
            before += _sums[bucket];
        }
        before = beforeLowest;
        return lowest;
    }

    private static int Bucket(float weight, int shift) => (int)(BitConverter.SingleToUInt32Bits(weight) >> shift) & ((1 << BucketBits) - 1);

    private interface IMeasure
    {
        static abstract double Of(float weight);
    }

    private readonly struct Weight : IMeasure
    {
        public static double Of(float weight) => weight;
    }

    private readonly struct One : IMeasure
    {
        public static double Of(float weight) => 1;
    }
}
