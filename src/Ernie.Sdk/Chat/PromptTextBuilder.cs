using System.Runtime.InteropServices;
using System.Text;

namespace Ernie.Sdk.Chat;

/// <summary>Collects a prompt from the template's own text and from input.</summary>
internal sealed class PromptTextBuilder
{
    private readonly StringBuilder _text = new();
    private readonly List<(int Start, int End)> _inputRanges = [];

    public PromptTextBuilder Append(string literal)
    {
        _text.Append(literal);
        return this;
    }

    public PromptTextBuilder AppendInput(string text)
    {
        if (text.Length == 0) return this;
        _inputRanges.Add((_text.Length, _text.Length + text.Length));
        _text.Append(text);
        return this;
    }

    public PromptText Build() => new(_text.ToString(), CollectionsMarshal.AsSpan(_inputRanges));
}
