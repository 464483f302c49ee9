using System.Text;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>What an answer must not have: texts, however they are cut into tokens, and tokens.</summary>
internal sealed record ForbiddenWords(IReadOnlyList<string> Texts, IReadOnlyList<int> Tokens)
{
    /// <summary>Equal for equal words.</summary>
    public string Key { get; } = string.Join(',', [.. Texts.Select(static text => $"{text.Length}:{text}"), .. Tokens]);

    public ForbiddenBytes ToBytes() => new(Texts.Select(Encoding.UTF8.GetBytes));
}
