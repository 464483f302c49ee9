using System.Globalization;
using System.Text;
using Ernie.Sdk.Export;

namespace Ernie.Cli;

/// <summary>What a quantised export cost, as text.</summary>
internal static class QualityTable
{
    /// <summary>Weights listed: the worst ones.</summary>
    private const int Listed = 8;

    public static string Text(QualityFile quality)
    {
        var text = new StringBuilder();
        text.AppendLine(CultureInfo.InvariantCulture,
            $"quality on {quality.Tokens} held-out tokens of {quality.Text}: perplexity {quality.Perplexity:G7} (source {quality.SourcePerplexity:G7}), KL divergence {quality.Divergence:F4}, same top token {quality.Agreement:P1}");
        if (quality.Tensors.Count == 0) return text.ToString().TrimEnd();
        text.AppendLine("relative squared error of weights, largest first (weighted: by the mean squares of their inputs)");
        text.AppendLine("   plain  weighted  format       weight");
        foreach (var tensor in quality.Tensors.OrderByDescending(static t => t.WeightedError).ThenBy(static t => t.Name, StringComparer.Ordinal).Take(Listed))
            text.AppendLine(CultureInfo.InvariantCulture, $"{tensor.Error,8:F5}  {tensor.WeightedError,8:F5}  {tensor.Format,-11}  {tensor.Name}");
        text.Append(CultureInfo.InvariantCulture, $"{quality.Tensors.Count} weights, mean {quality.Tensors.Average(static t => t.Error):F5} plain, {quality.Tensors.Average(static t => t.WeightedError):F5} weighted; all of them in {QualityReport.FileName}");
        return text.ToString();
    }
}
