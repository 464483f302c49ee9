using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Reads regular expressions: characters, classes, <c>\d \w \s</c>, groups, alternatives, <c>* + ? {m,n}</c>, and <c>^ $</c> around an alternative.
/// Whatever else a pattern has (look-around, back references, anchors within) is refused.
/// </summary>
internal sealed class PatternParser
{
    private const int LastRune = 0x10FFFF;
    private const int MaximumGroups = 100;

    private readonly string _pattern;
    private int _at;
    private int _depth;

    private PatternParser(string pattern) => _pattern = pattern;

    /// <exception cref="FormatException">The pattern is outside the subset; the message says what and where.</exception>
    public static PatternExpression Parse(string pattern) => new PatternParser(pattern).ParseWhole();

    private PatternExpression.Choice ParseWhole()
    {
        var anything = new PatternExpression.Repetition(new PatternExpression.Class([(0, LastRune)]), 0, null);
        var choices = new List<PatternExpression>();
        do
        {
            var parts = new List<PatternExpression>();
            if (!TryTake('^')) parts.Add(anything);
            parts.Add(ParseSequence());
            if (!TryTake('$')) parts.Add(anything);
            choices.Add(new PatternExpression.Sequence(parts));
        }
        while (TryTake('|'));
        if (_at < _pattern.Length) throw Refused();
        return new PatternExpression.Choice(choices);
    }

    private PatternExpression.Sequence ParseSequence()
    {
        var parts = new List<PatternExpression>();
        while (_at < _pattern.Length && _pattern[_at] is not ('|' or ')' or '$')) parts.Add(ParseRepetition());
        return new PatternExpression.Sequence(parts);
    }

    private PatternExpression ParseRepetition()
    {
        var part = ParseAtom();
        while (_at < _pattern.Length)
        {
            if (TryTake('*')) part = new PatternExpression.Repetition(part, 0, null);
            else if (TryTake('+')) part = new PatternExpression.Repetition(part, 1, null);
            else if (TryTake('?')) part = new PatternExpression.Repetition(part, 0, 1);
            else if (_pattern[_at] == '{') part = ParseCount(part);
            else break;
            // A lazy one matches the same texts.
            TryTake('?');
        }
        return part;
    }

    private PatternExpression.Repetition ParseCount(PatternExpression part)
    {
        var close = _pattern.IndexOf('}', _at);
        if (close < 0) throw Refused();
        var counts = _pattern[(_at + 1)..close].Split(',');
        int? most = null;
        if (!int.TryParse(counts[0], NumberStyles.None, CultureInfo.InvariantCulture, out var least) || counts.Length > 2) throw Refused();
        if (counts.Length == 1) most = least;
        else if (counts[1].Length > 0) most = int.TryParse(counts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var given) && given >= least ? given : throw Refused();
        _at = close + 1;
        return new PatternExpression.Repetition(part, least, most);
    }

    private PatternExpression ParseAtom()
    {
        var c = _pattern[_at];
        switch (c)
        {
            case '(':
                return ParseGroup();
            case '[':
                return ParseClass();
            case '.':
                _at++;
                return new PatternExpression.Class(Complement([('\n', '\n'), ('\r', '\r'), (0x2028, 0x2029)]));
            case '\\':
                _at++;
                return new PatternExpression.Class(ParseEscape());
            case '^' or '*' or '+' or '?' or '{':
                throw Refused();
            default:
                return new PatternExpression.Class([One(TakeRune())]);
        }
    }

    private PatternExpression.Choice ParseGroup()
    {
        _at++;
        if (++_depth > MaximumGroups || !RuntimeHelpers.TryEnsureSufficientExecutionStack()) throw new FormatException($"it is nested too deeply: at most {MaximumGroups} groups may stand in one another");
        if (TryTake('?') && !TryTake(':'))
        {
            var rest = _pattern[_at..];
            throw rest is ['=' or '!', ..] or ['<', '=' or '!', ..] ? new FormatException($"look-around is not supported: '(?{rest}'") : Refused();
        }
        var choices = new List<PatternExpression>();
        do choices.Add(ParseSequence());
        while (TryTake('|'));
        if (!TryTake(')')) throw Refused();
        _depth--;
        return new PatternExpression.Choice(choices);
    }

    private PatternExpression.Class ParseClass()
    {
        _at++;
        var isComplement = TryTake('^');
        var ranges = new List<(int Low, int High)>();
        while (_at < _pattern.Length && _pattern[_at] != ']')
        {
            var first = ParseMember();
            if (first is [var (low, end)] && low == end && _at + 1 < _pattern.Length && _pattern[_at] == '-' && _pattern[_at + 1] != ']')
            {
                _at++;
                if (ParseMember() is not [var (high, last)] || high != last || high < low) throw Refused();
                ranges.Add((low, high));
            }
            else
            {
                ranges.AddRange(first);
            }
        }
        if (!TryTake(']')) throw Refused();
        // Twice, it joins what overlaps.
        var others = Complement(ranges);
        return new PatternExpression.Class(isComplement ? others : Complement(others));
    }

    private List<(int Low, int High)> ParseMember()
    {
        if (TryTake('\\')) return ParseEscape();
        return _at < _pattern.Length ? [One(TakeRune())] : throw Refused();
    }

    private List<(int Low, int High)> ParseEscape()
    {
        if (_at >= _pattern.Length) throw Refused();
        var c = _pattern[_at++];
        switch (c)
        {
            case 'd': return [('0', '9')];
            case 'D': return Complement([('0', '9')]);
            case 'w': return [('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
            case 'W': return Complement([('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]);
            case 's': return [('\t', '\r'), (' ', ' '), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)];
            case 'S': return Complement([('\t', '\r'), (' ', ' '), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]);
            case 'n': return [One('\n')];
            case 'r': return [One('\r')];
            case 't': return [One('\t')];
            case 'f': return [One('\f')];
            case 'u' when _at + 4 <= _pattern.Length && int.TryParse(_pattern.AsSpan(_at, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var rune) && Rune.IsValid(rune):
                _at += 4;
                return [One(rune)];
            case var _ when !char.IsAsciiLetterOrDigit(c): return [One(c)];
            default:
                _at--;
                throw Refused();
        }
    }

    private static (int Low, int High) One(int rune) => (rune, rune);

    private static List<(int Low, int High)> Complement(List<(int Low, int High)> ranges)
    {
        var rest = new List<(int Low, int High)>();
        var next = 0;
        foreach (var (low, high) in ranges.OrderBy(static r => r.Low))
        {
            if (low > next) rest.Add((next, low - 1));
            next = Math.Max(next, high + 1);
        }
        if (next <= LastRune) rest.Add((next, LastRune));
        return rest;
    }

    private int TakeRune()
    {
        if (!Rune.TryGetRuneAt(_pattern, _at, out var rune)) throw Refused();
        _at += rune.Utf16SequenceLength;
        return rune.Value;
    }

    private bool TryTake(char c)
    {
        if (_at >= _pattern.Length || _pattern[_at] != c) return false;
        _at++;
        return true;
    }

    private FormatException Refused() => new(_at < _pattern.Length ? $"'{_pattern[_at..]}' is not understood" : "it ends too early");
}

/// <summary>A regular expression.</summary>
internal abstract record PatternExpression
{
    public sealed record Class(List<(int Low, int High)> Ranges) : PatternExpression;

    public sealed record Sequence(List<PatternExpression> Parts) : PatternExpression;

    public sealed record Choice(List<PatternExpression> Parts) : PatternExpression;

    public sealed record Repetition(PatternExpression Part, int Least, int? Most) : PatternExpression;
}
