namespace Ernie.Sdk.Chat;

/// <summary>
/// A rendered prompt, with the ranges of it that came from messages and tools. Control tokens are looked for outside these ranges only.
/// </summary>
internal readonly struct PromptText
{
    private readonly string? _text;
    private readonly (int Start, int End)[]? _inputRanges;

    /// <param name="text">The whole prompt.</param>
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

    public ReadOnlySpan<(int Start, int End)> InputRanges => _inputRanges;

    public override string ToString() => Text;
}
