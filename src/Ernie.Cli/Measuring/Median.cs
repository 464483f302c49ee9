namespace Ernie.Cli.Measuring;

/// <summary>The middle of several measurements; of an even number the lower of the two.</summary>
internal static class Median
{
    public static double Of(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted.Length == 0 ? double.NaN : sorted[(sorted.Length - 1) / 2];
    }
}
