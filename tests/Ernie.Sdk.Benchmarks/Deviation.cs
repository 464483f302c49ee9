namespace Ernie.Sdk.Benchmarks;

internal static class Deviation
{
    /// <summary>Largest absolute difference; a benchmark of wrong numbers is not worth a table, so a larger one than <paramref name="limit"/> throws.</summary>
    public static double Checked(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double limit)
    {
        double max = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            var difference = Math.Abs((double)expected[i] - actual[i]);
            if (!(difference <= limit)) throw new InvalidOperationException($"Element {i}: expected {expected[i]:R}, was {actual[i]:R}.");
            max = Math.Max(max, difference);
        }
        return max;
    }
}
