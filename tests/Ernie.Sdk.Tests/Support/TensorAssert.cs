using Ernie.Sdk.GpuTests.Checks;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Comparisons that say how much and where two tensors differ.</summary>
internal static class TensorAssert
{
    /// <summary>|actual - expected| ≤ absolute + relative · |expected| for every element.</summary>
    public static void Near(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double absolute, double relative, string what)
    {
        Assert.Equal(expected.Length, actual.Length);
        var difference = TensorDifference.Of(expected, actual, absolute, relative);
        if (difference.Bad > 0)
            Assert.Fail($"{what}: {difference.Bad} of {difference.Count} differ, worst at {difference.Worst}: expected {expected[difference.Worst]:R}, was {actual[difference.Worst]:R}; MaxAbsDiff {difference.Largest:G3}.");
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
