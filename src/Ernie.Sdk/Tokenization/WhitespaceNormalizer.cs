using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>SentencePiece's identity normaliser: whitespace rules only, as the model's flags ask for them.</summary>
internal sealed class WhitespaceNormalizer(bool addDummyPrefix, bool removeExtraWhitespaces, bool escapeWhitespaces, LongestMatcher userDefined)
{
    public const char SpaceMark = '\u2581';

    private readonly char _space = escapeWhitespaces ? SpaceMark : ' ';

    /// <summary>
    /// Writes at most <c>text.Length + 1</c> characters and returns their count. <paramref name="origins"/>, if not empty, receives the index in
    /// <paramref name="text"/> of each. The result has no lone surrogate.
    /// </summary>
    public int Normalize(ReadOnlySpan<char> text, Span<char> destination, Span<int> origins)
    {
        var skipped = 0;
        if (removeExtraWhitespaces)
        {
            while (skipped < text.Length && text[skipped] == ' ' && UserDefinedLength(text[skipped..]) <= 1) skipped++;
        }
        if (skipped == text.Length) return 0;

        var length = 0;
        if (addDummyPrefix)
        {
            if (!origins.IsEmpty) origins[0] = skipped;
            destination[length++] = _space;
        }
        length = removeExtraWhitespaces
            ? AppendCollapsed(text, skipped, destination, length, origins)
            : AppendAll(text, destination, length, origins);
        ReplaceLoneSurrogates(destination[..length]);
        return length;
    }

    private int AppendAll(ReadOnlySpan<char> text, Span<char> destination, int length, Span<int> origins)
    {
        var body = destination.Slice(length, text.Length);
        text.CopyTo(body);
        body.Replace(' ', _space);
        if (!origins.IsEmpty)
        {
            for (var i = 0; i < text.Length; i++) origins[length + i] = i;
        }
        return length + text.Length;
    }

    private int AppendCollapsed(ReadOnlySpan<char> text, int start, Span<char> destination, int length, Span<int> origins)
    {
        var afterSpace = true;
        for (var i = start; i < text.Length;)
        {
            // A user-defined string keeps its inner spaces; only those at its start collapse with what stands before.
            var end = i + Math.Max(1, UserDefinedLength(text[i..]));
            while (afterSpace && i < end && text[i] == ' ') i++;
            if (i == end) continue;
            for (; i < end; i++)
            {
                if (!origins.IsEmpty) origins[length] = i;
                destination[length++] = text[i] == ' ' ? _space : text[i];
            }
            afterSpace = text[end - 1] == ' ';
        }
        while (length > 0 && destination[length - 1] == _space) length--;
        return length;
    }

    private int UserDefinedLength(ReadOnlySpan<char> text) => userDefined.Count == 0 ? 0 : userDefined.Match(text, out _);

    private static void ReplaceLoneSurrogates(Span<char> text)
    {
        for (var i = 0; ; i++)
        {
            var next = text[i..].IndexOfAnyInRange('\uD800', '\uDFFF');
            if (next < 0) return;
            i += next;
            if (Rune.DecodeFromUtf16(text[i..], out _, out _) == System.Buffers.OperationStatus.Done) i++;
            else text[i] = '\uFFFD';
        }
    }
}
