namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>What a check has compared, and what was wrong first.</summary>
internal sealed class Findings
{
    /// <summary>The difference of two numbers that is the largest part of what it may be.</summary>
    public double LargestError { get; private set; }

    /// <summary>What that one may be; null where no numbers were compared.</summary>
    public double? Tolerance { get; private set; }

    /// <summary>How many comparisons there were.</summary>
    public int Count { get; private set; }

    /// <summary>The first that failed; null where none did.</summary>
    public string? Problem { get; private set; }

    /// <summary>What else is worth knowing of it.</summary>
    public string? Remark { get; set; }

    /// <summary>|actual - expected| ≤ absolute + relative · |expected| for every element.</summary>
    public void Near(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double absolute, double relative, string what)
    {
        if (!True(expected.Length == actual.Length, $"{what}: {actual.Length} numbers instead of {expected.Length}.")) return;
        var difference = TensorDifference.Of(expected, actual, absolute, relative);
        if (Tolerance is not { } before || difference.Error * before > LargestError * difference.Limit) (LargestError, Tolerance) = (difference.Error, difference.Limit);
        True(difference.Bad == 0, difference.Bad == 0 ? "" : $"{what}: {difference.Bad} of {difference.Count} differ, worst at {difference.Worst}: expected {expected[difference.Worst]:R}, was {actual[difference.Worst]:R}; MaxAbsDiff {difference.Largest:G3}.");
    }

    public void SameBits(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, string what)
    {
        var first = expected.Length == actual.Length ? 0 : -1;
        for (; first >= 0 && first < expected.Length; first++)
        {
            if (BitConverter.SingleToUInt32Bits(expected[first]) != BitConverter.SingleToUInt32Bits(actual[first])) break;
        }
        True(first == expected.Length, first == expected.Length ? "" : first < 0 ? $"{what}: {actual.Length} numbers instead of {expected.Length}." : $"{what}: bits differ, first at {first}: expected {expected[first]:R}, was {actual[first]:R}.");
    }

    public void Same<T>(IReadOnlyList<T> expected, IReadOnlyList<T> actual, string what)
    {
        var same = 0;
        while (same < Math.Min(expected.Count, actual.Count) && EqualityComparer<T>.Default.Equals(expected[same], actual[same])) same++;
        if (same == expected.Count && same == actual.Count) True(true, "");
        else True(false, $"{what}: {expected.Count} expected and {actual.Count} there; at {same} expected {(same < expected.Count ? expected[same] : "nothing")}, was {(same < actual.Count ? actual[same] : "nothing")}.");
    }

    public bool True(bool holds, string otherwise)
    {
        Count++;
        if (!holds) Problem ??= otherwise;
        return holds;
    }
}
