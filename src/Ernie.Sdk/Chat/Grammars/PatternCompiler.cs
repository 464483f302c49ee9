using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Strings that match a regular expression, as <see cref="PatternParser"/> reads it, as a deterministic rule.</summary>
internal sealed class PatternCompiler
{
    private const int MaximumStates = 4000;
    private const int MaximumScratchStates = 10 * MaximumStates;

    /// <summary>Of all patterns of a grammar: within a second.</summary>
    private const long MaximumSteps = 10_000_000;
    private const int MaximumDepth = 1000;

    /// <summary>A comparison of an edge with a byte is that much less than a step.</summary>
    private const int EdgesPerStep = 8;
    private const int StepsPerRange = 16;

    private readonly GrammarNetwork _network;
    private readonly JsonRules _json;
    private readonly GrammarNetwork _scratch = new();
    private readonly GrammarRule _rule;
    private int _depth;
    private int[] _reached = [];
    private int _closures;

    private PatternCompiler(GrammarNetwork network, JsonRules json)
    {
        (_network, _json) = (network, json);
        _rule = _scratch.NewRule();
    }

    /// <exception cref="FormatException">The pattern is outside the subset, or takes too much work; the message says what and where.</exception>
    public static GrammarRule Compile(string pattern, GrammarNetwork network, JsonRules json, int minimum, int maximum)
    {
        var compiler = new PatternCompiler(network, json);
        var end = compiler._scratch.NewState(compiler._rule, isExit: true);
        compiler.Emit(PatternParser.Parse(pattern), compiler._rule.Start, end);
        return compiler.ToText(minimum, maximum);
    }

    /// <summary>Names other than the given ones, as an object's further keys are; nothing is escaped in them.</summary>
    /// <exception cref="FormatException">The names have too many characters.</exception>
    public static GrammarRule Except(IReadOnlyCollection<string> names, GrammarNetwork network, JsonRules json)
    {
        var compiler = new PatternCompiler(network, json);
        var states = compiler._scratch;
        var free = states.NewState(compiler._rule, isExit: true);
        foreach (var (low, high) in json.PlainRunes) states.Runes(free, low, high, free, EdgeFlags.Counts);
        compiler.Exclude([.. names.Distinct(StringComparer.Ordinal)], free);
        return compiler.ToText(0, int.MaxValue);
    }

    private void Exclude(List<string> all, int free)
    {
        // A state for each beginning of a name: names may be as long as they like, so this is no recursion.
        var open = new Stack<(int State, List<string> Names, int At)>([(_rule.Start, all, 0)]);
        while (open.TryPop(out var next))
        {
            var (state, names, at) = next;
            _scratch.States[state].IsExit = !names.Exists(name => name.Length == at);
            var other = _json.PlainRunes.ToList();
            foreach (var group in names.Where(name => name.Length > at).GroupBy(name => Rune.GetRuneAt(name, at)))
            {
                if (_scratch.States.Count > MaximumScratchStates) throw TooManyStates();
                other = Without(other, group.Key.Value);
                var after = _scratch.NewState(_rule);
                if (_json.PlainRunes.Any(range => group.Key.Value >= range.Low && group.Key.Value <= range.High)) _scratch.Runes(state, group.Key.Value, group.Key.Value, after);
                open.Push((after, [.. group], at + group.Key.Utf16SequenceLength));
            }
            foreach (var (low, high) in other) _scratch.Runes(state, low, high, free);
        }
    }

    private static List<(int Low, int High)> Without(List<(int Low, int High)> ranges, int rune) =>
        [.. ranges.SelectMany(range => rune < range.Low || rune > range.High ? [range] : new[] { (range.Low, rune - 1), (rune + 1, range.High) }).Where(static range => range.Item1 <= range.Item2)];

    /// <summary>Subsets of the expression's states, between quotes.</summary>
    private GrammarRule ToText(int minimum, int maximum)
    {
        var rule = _network.NewRule(isText: true, minimum: minimum, maximum: maximum);
        var end = _network.NewState(rule, isExit: true);
        var numbers = new Dictionary<int[], int>(new SubsetComparer());
        var open = new Queue<(int[] Subset, int State)>();
        _reached = new int[_scratch.States.Count];
        _network.Byte(rule.Start, '"', Number([_rule.Start]));
        while (open.TryDequeue(out var next))
        {
            var edges = next.Subset.SelectMany(state => _scratch.States[state].Bytes).ToArray();
            var isCut = new bool[257];
            foreach (var edge in edges) isCut[edge.Low] = isCut[edge.High + 1] = true;
            int[] cuts = [.. Enumerable.Range(0, isCut.Length).Where(i => isCut[i])];
            Spend((2L * edges.Length) + ((long)edges.Length * cuts.Length / EdgesPerStep));
            for (var i = 0; i + 1 < cuts.Length; i++)
            {
                var taken = Array.FindAll(edges, e => e.Low <= cuts[i] && e.High >= cuts[i]);
                if (taken.Length > 0) _network.Bytes(next.State, (byte)cuts[i], (byte)(cuts[i + 1] - 1), Number(taken.Select(static e => e.Target)), taken[0].Flags);
            }
            if (Array.Exists(next.Subset, state => _scratch.States[state].IsExit)) _network.Byte(next.State, '"', end, EdgeFlags.NeedsMinimum);
        }
        return rule;

        int Number(IEnumerable<int> states)
        {
            var subset = Closure(states);
            if (numbers.TryGetValue(subset, out var number)) return number;
            if (numbers.Count >= MaximumStates) throw TooManyStates();
            number = _network.NewState(rule);
            numbers[subset] = number;
            open.Enqueue((subset, number));
            return number;
        }
    }

    /// <summary>What is reached without a byte and reads one or ends.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int[] Closure(IEnumerable<int> states)
    {
        _closures++;
        var found = new List<int>();
        var open = new Stack<int>(states);
        while (open.TryPop(out var number))
        {
            Spend(1);
            if (_reached[number] == _closures) continue;
            _reached[number] = _closures;
            var state = _scratch.States[number];
            if (state.IsExit || state.Bytes.Count > 0) found.Add(number);
            foreach (var next in state.Epsilons) open.Push(next);
        }
        found.Sort();
        return [.. found];
    }

    private void Spend(long steps)
    {
        if ((_network.PatternSteps += steps) > MaximumSteps) throw new FormatException(string.Create(CultureInfo.InvariantCulture, $"it takes, with those before it, more than {MaximumSteps:N0} steps to find what it matches; give it fewer optional and repeated parts"));
    }

    private static FormatException TooManyStates() => new($"it has more than {MaximumStates} states");

    private void Emit(PatternExpression expression, int from, int to)
    {
        if (_scratch.States.Count > MaximumScratchStates) throw new FormatException("it repeats too much");
        Spend(1);
        if (++_depth > MaximumDepth || !RuntimeHelpers.TryEnsureSufficientExecutionStack()) throw new FormatException($"it is nested too deeply: at most {MaximumDepth} groups, repetitions and alternatives may stand in one another");
        switch (expression)
        {
            case PatternExpression.Class { Ranges: var ranges }:
                EmitClass(ranges, from, to);
                break;
            case PatternExpression.Sequence { Parts: var parts }:
                foreach (var part in parts)
                {
                    var next = _scratch.NewState(_rule);
                    Emit(part, from, next);
                    from = next;
                }
                _scratch.States[from].Epsilons.Add(to);
                break;
            case PatternExpression.Choice { Parts: var parts }:
                foreach (var part in parts) Emit(part, from, to);
                break;
            case PatternExpression.Repetition { Part: var part, Least: var least, Most: var most }:
                EmitRepetition(part, least, most, from, to);
                break;
        }
        _depth--;
    }

    private void EmitRepetition(PatternExpression part, int least, int? most, int from, int to)
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
        Spend(ranges.Count * StepsPerRange);
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

    private sealed class SubsetComparer : IEqualityComparer<int[]>
    {
        public bool Equals(int[]? x, int[]? y) => x.AsSpan().SequenceEqual(y);

        public int GetHashCode(int[] subset)
        {
            var hash = new HashCode();
            foreach (var state in subset) hash.Add(state);
            return hash.ToHashCode();
        }
    }
}
