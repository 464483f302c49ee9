using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>Finds out which part of the text each token stands for, from the tokens alone.</summary>
internal static class TokenAligner
{
    public static void Align(
        SentencePieceModel model, ReadOnlySpan<int> ids, ReadOnlySpan<char> normalized, ReadOnlySpan<int> origins, int textLength, List<(int Start, int End)> ranges)
    {
        var position = 0;
        for (var t = 0; t < ids.Length;)
        {
            var tokens = 1;
            int length;
            switch (model.Type(ids[t]))
            {
                case PieceType.Byte:
                    Rune.DecodeFromUtf16(normalized[position..], out var rune, out length);
                    tokens = rune.Utf8SequenceLength;
                    break;
                case PieceType.Unknown:
                    length = UnknownLength(model, normalized[position..], t + 1 < ids.Length ? model.Piece(ids[t + 1]) : null);
                    break;
                default:
                    length = model.Piece(ids[t]).Length;
                    break;
            }

            var start = origins[position];
            position += length;
            var end = position < normalized.Length ? origins[position] : textLength;
            for (var i = 0; i < tokens; i++) ranges.Add((start, end));
            t += tokens;
        }
    }

    /// <summary>A run of unknown characters ends where the next token's text begins.</summary>
    private static int UnknownLength(SentencePieceModel model, ReadOnlySpan<char> rest, string? next)
    {
        if (next is null) return rest.Length;
        for (var length = 1; length < rest.Length; length++)
        {
            if (!char.IsLowSurrogate(rest[length]) && rest[length..].StartsWith(next) && !model.TryGetId(rest[..length].ToString(), out _)) return length;
        }
        return rest.Length;
    }
}
