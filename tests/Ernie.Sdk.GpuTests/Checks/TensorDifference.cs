namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>How much and where two tensors differ.</summary>
/// <param name="Count">Elements.</param>
/// <param name="Bad">Elements that differ by more than they may.</param>
/// <param name="Worst">The one of them that exceeds its limit most, or -1.</param>
/// <param name="Largest">Largest difference; two NaN do not differ.</param>
/// <param name="Error">The difference that is the largest part of what it may be.</param>
/// <param name="Limit">What that one may be.</param>
internal readonly record struct TensorDifference(int Count, int Bad, int Worst, double Largest, double Error, double Limit)
{
    /// <summary>Bad is what does not hold |actual - expected| ≤ absolute + relative · |expected|.</summary>
    public static TensorDifference Of(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double absolute, double relative)
    {
        int bad = 0, worst = -1;
        double worstExcess = 0, largest = 0, error = 0, errorLimit = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            if (float.IsNaN(expected[i]) && float.IsNaN(actual[i])) continue;
            var difference = Math.Abs((double)expected[i] - actual[i]);
            if (!double.IsFinite(difference)) difference = double.PositiveInfinity;
            largest = Math.Max(largest, difference);
            var limit = absolute + relative * Math.Abs((double)expected[i]);
            if (errorLimit == 0 || difference * errorLimit > error * limit) (error, errorLimit) = (difference, limit);
            var excess = difference - limit;
            if (excess <= 0) continue;
            bad++;
            if (worst >= 0 && excess <= worstExcess) continue;
            worst = i;
            worstExcess = excess;
        }
        return new TensorDifference(expected.Length, bad, worst, largest, error, errorLimit);
    }
}
