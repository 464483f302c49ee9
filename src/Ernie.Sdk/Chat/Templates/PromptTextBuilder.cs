using System.Runtime.InteropServices;
using System.Text;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>Collects a prompt from the template's own text and from input.</summary>
internal sealed class PromptTextBuilder
{
    private readonly StringBuilder _text = new();
    private readonly List<(int Start, int End)> _inputRanges = [];

    public int Length => _text.Length;

    public PromptTextBuilder Append(string literal)
    {
        _text.Append(literal);
        return this;
    }

    public PromptTextBuilder AppendInput(string text) => AppendInput(text.AsSpan());

    public PromptTextBuilder Append(string text, bool isInput) => isInput ? AppendInput(text) : Append(text);

    public PromptTextBuilder Append(in PromptText text) => Append(text, 0, text.Length);

    /// <summary>Appends a part of a text, with what of it came from input.</summary>
    public PromptTextBuilder Append(in PromptText text, int start, int end)
    {
        var at = start;
        var ranges = text.InputRanges;
        for (var i = FirstEndingAfter(ranges, start); i < ranges.Length && ranges[i].Start < end; i++)
        {
            var (from, to) = (Math.Max(ranges[i].Start, start), Math.Min(ranges[i].End, end));
            if (from >= to) continue;
            _text.Append(text.Text, at, from - at);
            AppendInput(text.Text.AsSpan(from, to - from));
            at = to;
        }
        _text.Append(text.Text, at, end - at);
        return this;
    }

    public PromptText Build() => new(_text.ToString(), CollectionsMarshal.AsSpan(_inputRanges));

    private PromptTextBuilder AppendInput(ReadOnlySpan<char> text)
    {
        if (text.Length == 0) return this;
        var start = _text.Length;
        if (_inputRanges is [.., var last] && last.End == start) _inputRanges[^1] = (last.Start, start + text.Length);
        else _inputRanges.Add((start, start + text.Length));
        _text.Append(text);
        return this;
    }

    private static int FirstEndingAfter(ReadOnlySpan<(int Start, int End)> ranges, int position)
    {
        var (low, high) = (0, ranges.Length);
        while (low < high)
        {
            var middle = (low + high) / 2;
            if (ranges[middle].End > position) high = middle;
            else low = middle + 1;
        }
        return low;
    }
}
