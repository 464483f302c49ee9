namespace Ernie.Sdk.Chat.Templates;

/// <summary>
/// Text with the ranges of it that came from messages and tools. Control tokens are looked for outside these ranges only, so what a template does to a text keeps the ranges.
/// </summary>
internal readonly struct PromptText
{
    private readonly string? _text;
    private readonly (int Start, int End)[]? _inputRanges;

    /// <param name="text">The whole text.</param>
    /// <param name="inputRanges">Ranges from input, in ascending order, without overlap; the end is exclusive.</param>
    public PromptText(string text, params ReadOnlySpan<(int Start, int End)> inputRanges)
    {
        var previous = 0;
        foreach (var (start, end) in inputRanges)
        {
            if (start < previous || end < start || end > text.Length) throw new ArgumentException("Ranges have to ascend within the text, without overlap.", nameof(inputRanges));
            previous = end;
        }
        _text = text;
        _inputRanges = inputRanges.ToArray();
    }

    public string Text => _text ?? "";

    public int Length => Text.Length;

    public ReadOnlySpan<(int Start, int End)> InputRanges => _inputRanges;

    public bool HasInput => _inputRanges is { Length: > 0 };

    /// <summary>A text that came from a message or tool.</summary>
    public static PromptText Input(string text) => text.Length == 0 ? default : new(text, (0, text.Length));

    public static implicit operator PromptText(string literal) => new(literal);

    public PromptText Slice(int start, int end)
    {
        if (start == 0 && end == Length) return this;
        return new PromptTextBuilder().Append(this, start, end).Build();
    }

    /// <summary>The text in pieces that came from one side each.</summary>
    public IEnumerable<(int Start, int End, bool IsInput)> Pieces()
    {
        var at = 0;
        foreach (var (start, end) in _inputRanges ?? [])
        {
            if (start > at) yield return (at, start, false);
            if (end > start) yield return (start, end, true);
            at = end;
        }
        if (at < Length) yield return (at, Length, false);
    }

    /// <summary>Replaces piece by piece, in order.</summary>
    public PromptText Map(Func<string, string> replace)
    {
        var mapped = new PromptTextBuilder();
        foreach (var (start, end, isInput) in Pieces()) mapped.Append(replace(Text[start..end]), isInput);
        return mapped.Build();
    }

    /// <summary>A text computed from this one as a whole: input, if any of this was.</summary>
    public PromptText Derived(string text) => HasInput ? Input(text) : text;

    public override string ToString() => Text;
}
