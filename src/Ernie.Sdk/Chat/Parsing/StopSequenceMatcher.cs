using System.Text;

namespace Ernie.Sdk.Chat.Parsing;

/// <summary>Cuts a stream of text before the first stop sequence, holding back what could be the beginning of one.</summary>
internal sealed class StopSequenceMatcher
{
    private readonly string[] _stops;
    private readonly StringBuilder _held = new();

    public StopSequenceMatcher(IEnumerable<string>? stops) => _stops = [.. (stops ?? []).Where(static s => s.Length > 0)];

    /// <summary>Whether a stop sequence has been seen: what follows is not wanted.</summary>
    public bool Stopped { get; private set; }

    /// <summary>Whether some of the text waits for what follows.</summary>
    public bool HoldsBack => _held.Length > 0;

    /// <summary>Takes the next piece of text and returns what is certain to belong to the answer.</summary>
    public string Append(string text)
    {
        if (_stops.Length == 0) return text;
        if (Stopped) return "";
        var all = _held.Append(text).ToString();
        var end = _stops.Select(stop => all.IndexOf(stop, StringComparison.Ordinal)).Where(static at => at >= 0).DefaultIfEmpty(-1).Min();
        _held.Clear();
        if (end >= 0)
        {
            Stopped = true;
            return all[..end];
        }
        var keep = _stops.Max(stop => HeldBack(all, stop));
        _held.Append(all.AsSpan(all.Length - keep));
        return all[..^keep];
    }

    /// <summary>What was held back and turned out to be text.</summary>
    public string Finish()
    {
        var rest = _held.ToString();
        _held.Clear();
        return Stopped ? "" : rest;
    }

    /// <summary>Length of the longest end of <paramref name="text"/> that begins <paramref name="stop"/>.</summary>
    private static int HeldBack(string text, string stop)
    {
        for (var length = Math.Min(stop.Length - 1, text.Length); length > 0; length--)
        {
            if (text.AsSpan(text.Length - length).SequenceEqual(stop.AsSpan(0, length))) return length;
        }
        return 0;
    }
}
