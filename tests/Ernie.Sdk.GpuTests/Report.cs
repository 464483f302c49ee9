using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Ernie.Sdk.GpuTests;

/// <summary>What was found, printed line by line and written to a file after each: what ends the process leaves what it had found before. One thread at a time.</summary>
/// <param name="output">Where lines go.</param>
/// <param name="file">The JSON; null: none.</param>
internal sealed class Report(TextWriter output, string? file)
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.CamelCase, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };
    private readonly List<Row> _rows = [];

    public IReadOnlyList<Row> Rows => _rows;

    /// <summary>The GPU, the driver and the libraries.</summary>
    public IReadOnlyDictionary<string, string> Machine { get; init; } = new Dictionary<string, string>();

    /// <summary>Lines of earlier runs, which are saved with these and not counted.</summary>
    public IReadOnlyList<Row> Earlier { get; init; } = [];

    public bool HasFailed => _rows.Any(static row => row.IsBad);

    public void Add(Row row)
    {
        _rows.Add(row);
        output.WriteLine(Line(row));
        output.Flush();
        Save();
    }

    /// <summary>Lines of another process' report.</summary>
    public void AddPrinted(IEnumerable<Row> rows)
    {
        _rows.AddRange(rows);
        Save();
    }

    public static string Header => $"{"piece",-22} {"check",-52} {"",-11} {"value",12}  limit, unit or part of";

    public string Summary()
    {
        var bad = _rows.Where(static row => row.IsBad).ToArray();
        var text = $"{_rows.Count(static r => r.Outcome == Outcome.Pass)} checks passed, {bad.Length} failed, {_rows.Count(static r => r.Outcome == Outcome.Skip)} skipped, {_rows.Count(static r => r.Outcome == Outcome.Measured)} measurements.";
        var bars = _rows.Where(static row => row.Bar is not null).ToArray();
        if (bars.Length > 0) text += $" {bars.Count(static row => row.Bar!.IsReached)} of {bars.Length} bars reached.";
        string[] lines =
        [
            .. bars.Where(static row => !row.Bar!.IsReached).Select(static row => $"  missed: {row.Piece}, {row.Name}: {row.Bar!.Text}; {Measurement(row)}"),
            .. bad.Select(static row => $"  {Word(row.Outcome)}: {row.Piece}, {row.Name}{(row.Note is null ? "" : $": {row.Note}")}"),
        ];
        return string.Join('\n', [text, .. lines]);
    }

    public void Save()
    {
        if (file is null) return;
        // Whoever reads while this is written sees the last whole file.
        var temporary = file + ".part";
        File.WriteAllText(temporary, JsonSerializer.Serialize(new Document(Machine, [.. Earlier, .. _rows]), s_json) + "\n");
        File.Move(temporary, file, overwrite: true);
    }

    /// <summary>The lines of a file; none where there is no such file, or it is something else.</summary>
    public static IReadOnlyList<Row> Read(string path) => Open(path)?.Rows ?? [];

    /// <summary>Whether there is such a file of a run with these libraries on such a machine.</summary>
    public static bool IsOf(string path, IReadOnlyDictionary<string, string> machine) => Open(path) is { } document && document.Machine.Count == machine.Count && document.Machine.All(pair => machine.GetValueOrDefault(pair.Key) == pair.Value);

    private static Document? Open(string path)
    {
        try
        {
            return File.Exists(path) ? JsonSerializer.Deserialize<Document>(File.ReadAllText(path), s_json) : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    private static string Line(Row row)
    {
        var number = row.Outcome == Outcome.Measured ? Number(row.Value) : row.LargestError is { } error ? error.ToString("E2", CultureInfo.InvariantCulture) : "";
        var limit = row.Outcome == Outcome.Measured
            ? $"{row.Unit}{ShareText(row)}{(row.Bar is { } bar ? $"; bar {bar.Text}: {(bar.IsReached ? "reached" : "MISSED")}" : "")}"
            : row.Tolerance is { } tolerance ? string.Create(CultureInfo.InvariantCulture, $"≤ {tolerance:E1}, {row.Comparisons} comparisons") : row.Comparisons is { } count ? string.Create(CultureInfo.InvariantCulture, $"{count} comparisons") : "";
        return $"{row.Piece,-22} {row.Name,-52} {Word(row.Outcome),-11} {number,12}  {limit}{(row.Note is null ? "" : $"{(limit.Length > 0 ? "; " : "")}{row.Note}")}".TrimEnd();
    }

    private static string Measurement(Row row) => $"{Number(row.Value)} {row.Unit}{ShareText(row)}";

    private static string ShareText(Row row) => row.Share is { } share ? string.Create(CultureInfo.InvariantCulture, $", {share:P1} of {row.ShareOf}") : "";

    private static string Word(Outcome outcome) => outcome switch { Outcome.Pass => "pass", Outcome.Fail => "FAIL", Outcome.Skip => "skipped", Outcome.OutOfTime => "OUT OF TIME", _ => "" };

    private static string Number(double? value) => value is not { } v ? "" : v.ToString(Math.Abs(v) is >= 1000 ? "N0" : Math.Abs(v) is >= 10 ? "F1" : "F3", CultureInfo.InvariantCulture);

    private sealed record Document(IReadOnlyDictionary<string, string> Machine, IReadOnlyList<Row> Rows);
}
