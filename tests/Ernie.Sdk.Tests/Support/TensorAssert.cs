namespace Ernie.Sdk.Tests.Support;

/// <summary>Comparisons that say how much and where two tensors differ.</summary>
internal static class TensorAssert
{
    /// <summary>|actual - expected| ≤ absolute + relative · |expected| for every element.</summary>
    public static void Near(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double absolute, double relative, string what)
    {
        Assert.Equal(expected.Length, actual.Length);
        int bad = 0, worst = -1;
        double worstExcess = 0, maxDifference = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            if (float.IsNaN(expected[i]) && float.IsNaN(actual[i])) continue;
            var difference = Math.Abs((double)expected[i] - actual[i]);
            if (!double.IsFinite(difference)) difference = double.PositiveInfinity;
            maxDifference = Math.Max(maxDifference, difference);
            var excess = difference - (absolute + relative * Math.Abs((double)expected[i]));
            if (excess <= 0) continue;
            bad++;
            if (worst >= 0 && excess <= worstExcess) continue;
            worst = i;
            worstExcess = excess;
        }
        if (bad > 0)
            Assert.Fail($"{what}: {bad} of {expected.Length} differ, worst at {worst}: expected {expected[worst]:R}, was {actual[worst]:R}; MaxAbsDiff {maxDifference:G3}.");
    }

    public static void SameBits(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, string what)
    {
        Assert.Equal(expected.Length, actual.Length);
        int bad = 0, first = -1;
        double maxDifference = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            if (BitConverter.SingleToUInt32Bits(expected[i]) == BitConverter.SingleToUInt32Bits(actual[i])) continue;
            bad++;
            if (first < 0) first = i;
            maxDifference = Math.Max(maxDifference, Math.Abs((double)expected[i] - actual[i]));
        }
        if (bad > 0)
            Assert.Fail($"{what}: {bad} of {expected.Length} differ in bits, first at {first}: expected {expected[first]:R}, was {actual[first]:R}; MaxAbsDiff {maxDifference:G3}.");
    }
}
