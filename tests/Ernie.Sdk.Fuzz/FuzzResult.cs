using System.Globalization;
using System.Text;

namespace Ernie.Sdk.Fuzz;

internal sealed record FuzzResult(string Reader)
{
    public int Inputs { get; set; }
    public int Accepted { get; set; }
    public Dictionary<string, int> Exceptions { get; } = new(StringComparer.Ordinal);
    public TimeSpan Elapsed { get; set; }
    public TimeSpan Slowest { get; set; }
    public byte[] SlowestInput { get; set; } = [];
    public long MostAllocated { get; set; }
    /// <summary>What went wrong, with the input in base64.</summary>
    public List<string> Failures { get; } = [];

    public override string ToString()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{Reader,-15} {Inputs,11:N0} inputs in {Elapsed.TotalSeconds:F1} s, accepted {Accepted:N0}");
        foreach (var (type, count) in Exceptions.OrderByDescending(static pair => pair.Value)) text.Append(CultureInfo.InvariantCulture, $", {type} {count:N0}");
        text.Append(CultureInfo.InvariantCulture, $"; slowest {Slowest.TotalMilliseconds:F1} ms ({SlowestInput.Length} bytes), most allocated {MostAllocated / 1024.0:F0} KiB");
        foreach (var failure in Failures.Take(10)) text.AppendLine().Append("  FAILED ").Append(failure);
        return text.ToString();
    }
}
