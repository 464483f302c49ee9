using System.Globalization;
using System.Text;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Strings that match a regular expression, as a deterministic rule: characters, classes, <c>\d \w \s</c>, groups, alternatives, <c>* + ? {m,n}</c>, and <c>^ $</c> around an alternative.
/// Whatever else a pattern has (look-around, back references, anchors within) is refused.
/// </summary>
internal sealed class PatternCompiler
{
    private const int MaximumStates = 4000;
    private const int LastRune = 0x10FFFF;

    private readonly JsonRules _json;
    private readonly string _pattern;
    private readonly GrammarNetwork _scratch = new();
    private readonly GrammarRule _rule;
    private int _at;

    private PatternCompiler(string pattern, JsonRules json)
    {
        (_pattern, _json) = (pattern, json);
        _rule = _scratch.NewRule();
    }

    /// <exception cref="FormatException">The pattern is outside the subset; the message says what and where.</exception>
    public static GrammarRule Compile(string pattern, GrammarNetwork network, JsonRules json, int minimum, int maximum)
    {
        var compiler = new PatternCompiler(pattern, json);
        var end = compiler._scratch.NewState(compiler._rule, isExit: true);
        compiler.Emit(compiler.ParseWhole(), compiler._rule.Start, end);
        return compiler.ToText(network, minimum, maximum);
    }

    /// <summary>Names other than the given ones, as an object's further keys are; nothing is escaped in them.</summary>
    public static GrammarRule Except(IReadOnlyCollection<string> names, GrammarNetwork network, JsonRules json)
    {
        var compiler = new PatternCompiler("", json);
        var states = compiler._scratch;
        var free = states.NewState(compiler._rule, isExit: true);
        foreach (var (low, high) in json.PlainRunes) states.Runes(free, low, high, free, EdgeFlags.Counts);
        compiler.Exclude(compiler._rule.Start, [.. names.Distinct(StringComparer.Ordinal)], 0, free);
        return compiler.ToText(network, 0, int.MaxValue);
    }

    private void Exclude(int state, List<string> names, int at, int free)
    {
        _scratch.States[state].IsExit = !names.Exists(name => name.Length == at);
        var other = _json.PlainRunes.ToList();
        foreach (var group in names.Where(name => name.Length > at).GroupBy(name => Rune.GetRuneAt(name, at)))
        {
            other = Without(other, group.Key.Value);
            var next = _scratch.NewState(_rule);
            if (_json.PlainRunes.Any(range => group.Key.Value >= range.Low && group.Key.Value <= range.High)) _scratch.Runes(state, group.Key.Value, group.Key.Value, next);
            Exclude(next, [.. group], at + group.Key.Utf16SequenceLength, free);
        }
        foreach (var (low, high) in other) _scratch.Runes(state, low, high, free);
    }

    private static List<(int Low, int High)> Without(List<(int Low, int High)> ranges, int rune) =>
        [.. ranges.SelectMany(range => rune < range.Low || rune > range.High ? [range] : new[] { (range.Low, rune - 1), (rune + 1, range.High) }).Where(static range => range.Item1 <= range.Item2)];

    /// <summary>Subsets of the expression's states, between quotes.</summary>
    private GrammarRule ToText(GrammarNetwork network, int minimum, int maximum)
    {
        var rule = network.NewRule(isText: true, minimum: minimum, maximum: maximum);
        var end = network.NewState(rule, isExit: true);
        var numbers = new Dictionary<string, int>(StringComparer.Ordinal);
        var open = new Queue<(int[] Subset, int State)>();
        network.Byte(rule.Start, '"', Number([_rule.Start]));
        while (open.TryDequeue(out var next))
        {
            var edges = next.Subset.SelectMany(state => _scratch.States[state].Bytes).ToArray();
            int[] cuts = [.. edges.SelectMany(static e => new[] { e.Low, e.High + 1 }).Distinct().Order()];
            for (var i = 0; i + 1 < cuts.Length; i++)
            {
                var taken = Array.FindAll(edges, e => e.Low <= cuts[i] && e.High >= cuts[i]);
                if (taken.Length > 0) network.Bytes(next.State, (byte)cuts[i], (byte)(cuts[i + 1] - 1), Number(taken.Select(static e => e.Target)), taken[0].Flags);
            }
            if (Array.Exists(next.Subset, state => _scratch.States[state].IsExit)) network.Byte(next.State, '"', end, EdgeFlags.NeedsMinimum);
        }
        return rule;

        int Number(IEnumerable<int> states)
        {
            var subset = Closure(states);
            var key = string.Join(',', subset);
            if (numbers.TryGetValue(key, out var number)) return number;
            if (numbers.Count >= MaximumStates) throw new FormatException($"it has more than {MaximumStates} states");
            number = network.NewState(rule);
            numbers[key] = number;
            open.Enqueue((subset, number));
            return number;
        }
    }

    private int[] Closure(IEnumerable<int> states)
    {
        var seen = new SortedSet<int>();
        var open = new Stack<int>(states);
        while (open.TryPop(out var state))
        {
            if (!seen.Add(state)) continue;
            foreach (var next in _scratch.States[state].Epsilons) open.Push(next);
        }
        return [.. seen];
    }

    private void Emit(Expression expression, int from, int to)
    {
        if (_scratch.States.Count > 10 * MaximumStates) throw new FormatException("it repeats too much");
        switch (expression)
        {
            case Class { Ranges: var ranges }:
                EmitClass(ranges, from, to);
                break;
            case Sequence { Parts: var parts }:
                foreach (var part in parts)
                {
                    var next = _scratch.NewState(_rule);
                    Emit(part, from, next);
                    from = next;
                }
                _scratch.States[from].Epsilons.Add(to);
                break;
            case Choice { Parts: var parts }:
                foreach (var part in parts) Emit(part, from, to);
                break;
            case Repetition { Part: var part, Least: var least, Most: var most }:
                EmitRepetition(part, least, most, from, to);
                break;
        }
    }

    private void EmitRepetition(Expression part, int least, int? most, int from, int to)
    {
        for (var i = 0; i < least; i++)
        {
            var next = _scratch.NewState(_rule);
            Emit(part, from, next);
            from = next;
        }
        if (most is null)
        {
            var loop = _scratch.NewState(_rule);
            _scratch.States[from].Epsilons.Add(loop);
            Emit(part, loop, loop);
            _scratch.States[loop].Epsilons.Add(to);
            return;
        }
        for (var i = least; i < most; i++)
        {
            _scratch.States[from].Epsilons.Add(to);
            var next = _scratch.NewState(_rule);
            Emit(part, from, next);
            from = next;
        }
        _scratch.States[from].Epsilons.Add(to);
    }

    /// <summary>Characters as they stand in a JSON string.</summary>
    private void EmitClass(List<(int Low, int High)> ranges, int from, int to)
    {
        foreach (var (low, high) in ranges)
        {
            foreach (var plain in _json.PlainRunes)
            {
                if (Math.Max(low, plain.Low) <= Math.Min(high, plain.High)) _scratch.Runes(from, Math.Max(low, plain.Low), Math.Min(high, plain.High), to, EdgeFlags.Counts);
            }
            foreach (var (c, spelled) in new[] { ('"', "\""), ('\\', "\\"), ('\n', "n"), ('\r', "r"), ('\t', "t"), ('\f', "f"), ('\b', "b"), ('<', "u003c") })
            {
                if (c < low || c > high || (c == '<' && !_json.EscapesTags)) continue;
                var escape = _scratch.NewState(_rule);
                _scratch.Byte(from, '\\', escape, EdgeFlags.Counts);
                _scratch.Literal(escape, Encoding.ASCII.GetBytes(spelled), to);
            }
        }
    }

    private Choice ParseWhole()
    {
        var anything = new Repetition(new Class([(0, LastRune)]), 0, null);
        var choices = new List<Expression>();
        do
        {
            var parts = new List<Expression>();
            if (!TryTake('^')) parts.Add(anything);
            parts.Add(ParseSequence());
            if (!TryTake('$')) parts.Add(anything);
            choices.Add(new Sequence(parts));
        }
        while (TryTake('|'));
        if (_at < _pattern.Length) throw Refused();
        return new Choice(choices);
    }

    private Sequence ParseSequence()
    {
        var parts = new List<Expression>();
        while (_at < _pattern.Length && _pattern[_at] is not ('|' or ')' or '$')) parts.Add(ParseRepetition());
        return new Sequence(parts);
    }

    private Expression ParseRepetition()
    {
        var part = ParseAtom();
        while (_at < _pattern.Length)
        {
            if (TryTake('*')) part = new Repetition(part, 0, null);
            else if (TryTake('+')) part = new Repetition(part, 1, null);
            else if (TryTake('?')) part = new Repetition(part, 0, 1);
            else if (_pattern[_at] == '{') part = ParseCount(part);
            else break;
            // A lazy one matches the same texts.
            TryTake('?');
        }
        return part;
    }

    private Repetition ParseCount(Expression part)
    {
        var close = _pattern.IndexOf('}', _at);
        if (close < 0) throw Refused();
        var counts = _pattern[(_at + 1)..close].Split(',');
        int? most = null;
        if (!int.TryParse(counts[0], NumberStyles.None, CultureInfo.InvariantCulture, out var least) || counts.Length > 2) throw Refused();
        if (counts.Length == 1) most = least;
        else if (counts[1].Length > 0) most = int.TryParse(counts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var given) && given >= least ? given : throw Refused();
        _at = close + 1;
        return new Repetition(part, least, most);
    }

    private Expression ParseAtom()
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
                return new Class(Complement([('\n', '\n'), ('\r', '\r'), (0x2028, 0x2029)]));
            case '\\':
                _at++;
                return new Class(ParseEscape());
            case '^' or '*' or '+' or '?' or '{':
                throw Refused();
            default:
                return new Class([One(TakeRune())]);
        }
    }

    private Choice ParseGroup()
    {
        _at++;
        if (TryTake('?') && !TryTake(':'))
        {
            var rest = _pattern[_at..];
            throw rest is ['=' or '!', ..] or ['<', '=' or '!', ..] ? new FormatException($"look-around is not supported: '(?{rest}'") : Refused();
        }
        var choices = new List<Expression>();
        do choices.Add(ParseSequence());
        while (TryTake('|'));
        if (!TryTake(')')) throw Refused();
        return new Choice(choices);
    }

    private Class ParseClass()
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
        return new Class(isComplement ? Complement(ranges) : ranges);
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

    private abstract record Expression;

    private sealed record Class(List<(int Low, int High)> Ranges) : Expression;

    private sealed record Sequence(List<Expression> Parts) : Expression;

    private sealed record Choice(List<Expression> Parts) : Expression;

    private sealed record Repetition(Expression Part, int Least, int? Most) : Expression;
}
