using System.Text.Json.Serialization;

namespace Ernie.Sdk.GpuTests;

/// <summary>How a line of the report ended.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<Outcome>))]
internal enum Outcome
{
    Pass,
    Fail,
    /// <summary>Not done, for the reason that is said.</summary>
    Skip,
    /// <summary>A number, neither good nor bad.</summary>
    Measured,
    /// <summary>The piece was ended before it was done.</summary>
    OutOfTime,
}

/// <summary>A line of the report.</summary>
internal sealed record Row
{
    public required string Piece { get; init; }
    public required string Name { get; init; }
    public required Outcome Outcome { get; init; }
    /// <summary>Of a check: the difference that is the largest part of what it may be.</summary>
    public double? LargestError { get; init; }
    /// <summary>Of a check: what that difference may be.</summary>
    public double? Tolerance { get; init; }
    /// <summary>Of a check: how many comparisons it made.</summary>
    public int? Comparisons { get; init; }
    /// <summary>Of a measurement.</summary>
    public double? Value { get; init; }
    public string? Unit { get; init; }
    /// <summary>Of a measurement: its part of what the card was seen to do in the same process.</summary>
    public double? Share { get; init; }
    /// <summary>What <see cref="Share"/> is a part of.</summary>
    public string? ShareOf { get; init; }
    /// <summary>Of a measurement: what it was made of, by name.</summary>
    public IReadOnlyDictionary<string, double>? Figures { get; init; }
    /// <summary>Of a measurement: what it should reach; null where nothing was asked of it.</summary>
    public Bar? Bar { get; init; }
    /// <summary>What went wrong, why it was not done, or what a number says.</summary>
    public string? Note { get; init; }

    [JsonIgnore]
    public bool IsBad => Outcome is Outcome.Fail or Outcome.OutOfTime;
}

/// <summary>What a measurement should reach. One that does not is no failure: another card may do it.</summary>
/// <param name="Text">What is asked for.</param>
/// <param name="IsReached">Whether it is so.</param>
internal sealed record Bar(string Text, bool IsReached)
{
    public static Bar AtLeast(double value, double least, string text) => new(text, value >= least);

    public static Bar AtMost(double value, double most, string text) => new(text, value <= most);
}
