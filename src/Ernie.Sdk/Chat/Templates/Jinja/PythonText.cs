using System.Globalization;
using System.Text;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>Python's view of text: code points, its white space, its upper and lower case, its repr.</summary>
internal static class PythonText
{
    // The full mappings that simple case conversion lacks and that Latin scripts need.
    private static readonly Dictionary<char, string> s_upper = new()
    {
        ['ß'] = "SS", ['ŉ'] = "ʼN", ['ǰ'] = "J̌", ['և'] = "ԵՒ", ['ﬀ'] = "FF", ['ﬁ'] = "FI", ['ﬂ'] = "FL", ['ﬃ'] = "FFI", ['ﬄ'] = "FFL", ['ﬅ'] = "ST", ['ﬆ'] = "ST",
    };

    public static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\x1c' and <= '\x1f';

    public static bool ContainsAnyNotSpace(this ReadOnlySpan<char> text)
    {
        foreach (var c in text)
        {
            if (!IsSpace(c)) return true;
        }
        return false;
    }

    public static int CountCodePoints(string text)
    {
        var count = text.Length;
        for (var i = 0; i + 1 < text.Length; i++)
        {
            if (char.IsSurrogatePair(text[i], text[i + 1]))
            {
                count--;
                i++;
            }
        }
        return count;
    }

    /// <summary>Where each code point starts, and the end.</summary>
    public static int[] Offsets(string text)
    {
        var offsets = new List<int>(text.Length + 1);
        for (var i = 0; i < text.Length; i++)
        {
            offsets.Add(i);
            if (i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1])) i++;
        }
        offsets.Add(text.Length);
        return [.. offsets];
    }

    public static bool HasSurrogates(string text) => text.AsSpan().ContainsAnyInRange('\uD800', '\uDFFF');

    public static string ToUpper(string text)
    {
        if (!text.AsSpan().ContainsAnyExceptInRange('\0', '\x7f')) return text.ToUpperInvariant();
        var upper = new StringBuilder(text.Length);
        foreach (var rune in text.EnumerateRunes())
        {
            if (rune.IsBmp && s_upper.TryGetValue((char)rune.Value, out var full)) upper.Append(full);
            else upper.Append(Rune.ToUpperInvariant(rune));
        }
        return upper.ToString();
    }

    public static string ToLower(string text) => text.Replace("İ", "i\u0307", StringComparison.Ordinal).ToLowerInvariant();

    /// <summary>The first letter upper, the rest lower.</summary>
    public static string Capitalize(string text)
    {
        if (text.Length == 0) return text;
        var first = char.IsSurrogatePair(text, 0) ? 2 : 1;
        return ToUpper(text[..first]) + ToLower(text[first..]);
    }

    public static int Compare(string left, string right)
    {
        var common = left.AsSpan().CommonPrefixLength(right);
        if (common == left.Length || common == right.Length) return left.Length.CompareTo(right.Length);
        var (a, b) = (left[common], right[common]);
        // Surrogates stand for code points above all others.
        return char.IsSurrogate(a) != char.IsSurrogate(b) ? (char.IsSurrogate(a) ? 1 : -1) : a.CompareTo(b);
    }

    /// <summary>Python's literal of a string, quotes included.</summary>
    public static PromptText Repr(in PromptText text)
    {
        var quote = text.Text.Contains('\'', StringComparison.Ordinal) && !text.Text.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        var quoted = new PromptTextBuilder().Append(quote.ToString()).Append(text.Map(piece => Escape(piece, quote)));
        return quoted.Append(quote.ToString()).Build();
    }

    private static string Escape(string text, char quote)
    {
        var escaped = new StringBuilder(text.Length);
        for (var i = 0; i < text.Length; i++)
        {
            var c = text[i];
            if (c == quote || c == '\\') escaped.Append('\\').Append(c);
            else if (c == '\n') escaped.Append("\\n");
            else if (c == '\r') escaped.Append("\\r");
            else if (c == '\t') escaped.Append("\\t");
            else if (c is >= ' ' and < '\x7f') escaped.Append(c);
            else
            {
                var isPair = i + 1 < text.Length && char.IsSurrogatePair(c, text[i + 1]);
                var code = isPair ? char.ConvertToUtf32(c, text[i + 1]) : c;
                var category = isPair ? CharUnicodeInfo.GetUnicodeCategory(code) : char.GetUnicodeCategory(c);
                var isPrintable = category is not (UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned
                    or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);
                if (isPrintable) escaped.Append(text, i, isPair ? 2 : 1);
                else if (code < 0x100) escaped.Append("\\x").Append(code.ToString("x2", CultureInfo.InvariantCulture));
                else if (code < 0x10000) escaped.Append("\\u").Append(code.ToString("x4", CultureInfo.InvariantCulture));
                else escaped.Append("\\U").Append(code.ToString("x8", CultureInfo.InvariantCulture));
                if (isPair) i++;
            }
        }
        return escaped.ToString();
    }
}
