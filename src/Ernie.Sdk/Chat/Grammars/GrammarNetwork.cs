using System.Globalization;

namespace Ernie.Sdk.Chat.Grammars;

[Flags]
internal enum EdgeFlags : byte
{
    None = 0,
    /// <summary>Adds one to what the rule counts; impossible at its maximum.</summary>
    Counts = 1,
    /// <summary>Possible only from the rule's minimum on.</summary>
    NeedsMinimum = 2,
}

internal readonly record struct ByteEdge(byte Low, byte High, int Target, EdgeFlags Flags);

internal readonly record struct CallEdge(GrammarRule Rule, int Return, EdgeFlags Flags);

/// <summary>A non-terminal: states that bytes and calls of other rules lead through, and a counter of items or characters.</summary>
internal sealed class GrammarRule(int first)
{
    /// <summary>Its first state, where it starts.</summary>
    public int Start { get; } = first;

    public int Minimum { get; init; }

    public int Maximum { get; init; } = int.MaxValue;

    /// <summary>
    /// Whether it is the inside of a text: deterministic, without calls, left by a byte to a state without edges. Most tokens of a vocabulary stay in there, so what they do is
    /// found once for a state and not for every place where it is met.
    /// </summary>
    public bool IsText { get; init; }

    /// <summary>Whether all characters are alike to it: it is a string of any characters, of which every grammar has the same states.</summary>
    public bool IsPlainString { get; init; }

    /// <summary>Whether a plain string spells <c>&lt;</c> as an escape.</summary>
    public bool EscapesTags { get; init; }

    /// <summary>Whether the document may end anywhere in it. The document's own rule calls it, and no other.</summary>
    public bool MayEnd { get; init; }

    /// <summary>Whether it is an object or array, of which only so many may stand in one another.</summary>
    public bool Nests { get; init; }

    /// <summary>How deep the flattest document of the rule is nested.</summary>
    public int Height { get; set; }

    public bool IsCounted => Minimum > 0 || Maximum < int.MaxValue;

    public bool TryStep(int count, EdgeFlags flags, out int next)
    {
        next = count;
        if ((flags & EdgeFlags.NeedsMinimum) != 0 && count < Minimum) return false;
        if ((flags & EdgeFlags.Counts) == 0) return true;
        return TryAdd(count, 1, out next);
    }

    /// <summary>Counts on. What lies beyond the minimum does not matter where there is no maximum.</summary>
    public bool TryAdd(int count, int added, out int next)
    {
        next = Maximum == int.MaxValue ? Math.Min(count + added, Minimum) : count + added;
        return next <= Maximum;
    }
}

internal sealed class GrammarState(GrammarRule rule)
{
    private short[]? _lookup;

    public GrammarRule Rule { get; } = rule;
    public List<ByteEdge> Bytes { get; } = [];
    public List<CallEdge> Calls { get; } = [];
    public List<int> Epsilons { get; } = [];
    public bool IsExit { get; set; }

    /// <summary>The one edge of a byte in a deterministic state.</summary>
    public bool TryGetEdge(byte value, out ByteEdge edge)
    {
        if (_lookup is null)
        {
            var lookup = new short[256];
            Array.Fill(lookup, (short)-1);
            for (var i = 0; i < Bytes.Count; i++) lookup.AsSpan(Bytes[i].Low..(Bytes[i].High + 1)).Fill((short)i);
            _lookup = lookup;
        }
        var at = _lookup[value];
        edge = at < 0 ? default : Bytes[at];
        return at >= 0;
    }
}

/// <summary>A grammar over bytes as a recursive transition network: rules are automata whose edges are bytes or calls of rules.</summary>
internal sealed class GrammarNetwork
{
    /// <summary>Of a grammar: with what is found out about them, some hundred megabytes.</summary>
    public const int MaximumStates = 200_000;

    private const int FirstSurrogate = 0xD800;
    private const int LastSurrogate = 0xDFFF;

    private readonly Dictionary<(int To, int Count), int> _continuations = [];

    public List<GrammarState> States { get; } = [];

    /// <summary>Work that patterns have taken until now.</summary>
    public long PatternSteps { get; set; }

    /// <summary>Where a schema first asks for what no value is, and why; null where that was not seen. A document may do without that value.</summary>
    public string? Unmeetable { get; set; }

    /// <summary>A rule and its start state.</summary>
    public GrammarRule NewRule(bool nests = false, bool isText = false, bool isPlainString = false, bool escapesTags = false, bool mayEnd = false, int minimum = 0, int maximum = int.MaxValue)
    {
        var rule = new GrammarRule(States.Count) { Nests = nests, IsText = isText, IsPlainString = isPlainString, EscapesTags = escapesTags, MayEnd = mayEnd, Minimum = minimum, Maximum = maximum };
        NewState(rule);
        return rule;
    }

    /// <exception cref="NotSupportedException">There are too many.</exception>
    public int NewState(GrammarRule rule, bool isExit = false)
    {
        CheckRoom(1);
        States.Add(new GrammarState(rule) { IsExit = isExit });
        return States.Count - 1;
    }

    public void Byte(int from, char value, int to, EdgeFlags flags = EdgeFlags.None) => Bytes(from, (byte)value, (byte)value, to, flags);

    public void Bytes(int from, byte low, byte high, int to, EdgeFlags flags = EdgeFlags.None) => States[from].Bytes.Add(new ByteEdge(low, high, to, flags));

    public void Call(int from, GrammarRule rule, int to, EdgeFlags flags = EdgeFlags.None) => States[from].Calls.Add(new CallEdge(rule, to, flags));

    private void CheckRoom(int added)
    {
        if (States.Count + (long)added > MaximumStates) throw new NotSupportedException(string.Create(CultureInfo.InvariantCulture, $"JSON schema: with everything in it, it takes more than {MaximumStates:N0} states, about one for each character of its constants and names. Shorten them, or leave values out."));
    }

    /// <summary>Bytes one after the other.</summary>
    public void Literal(int from, ReadOnlySpan<byte> text, int to)
    {
        CheckRoom(text.Length);
        if (text.IsEmpty) States[from].Epsilons.Add(to);
        for (var i = 0; i < text.Length; i++)
        {
            var next = i == text.Length - 1 ? to : NewState(States[from].Rule);
            Bytes(from, text[i], text[i], next);
            from = next;
        }
    }

    /// <summary>The characters of a range in UTF-8; surrogates are none.</summary>
    public void Runes(int from, int low, int high, int to, EdgeFlags flags = EdgeFlags.None)
    {
        SplitRunes(from, low, Math.Min(high, FirstSurrogate - 1), to, flags);
        SplitRunes(from, Math.Max(low, LastSurrogate + 1), high, to, flags);
    }

    private void SplitRunes(int from, int low, int high, int to, EdgeFlags flags)
    {
        if (low > high) return;
        foreach (var last in new[] { 0x7F, 0x7FF, 0xFFFF })
        {
            if (low > last || high <= last) continue;
            SplitRunes(from, low, last, to, flags);
            SplitRunes(from, last + 1, high, to, flags);
            return;
        }
        Span<byte> first = stackalloc byte[4];
        Span<byte> second = stackalloc byte[4];
        var length = new System.Text.Rune(low).EncodeToUtf8(first);
        new System.Text.Rune(high).EncodeToUtf8(second);
        Sequence(from, first[..length], second[..length], to, flags);
    }

    /// <summary>All sequences between two of one length, as UTF-8 orders them.</summary>
    private void Sequence(int from, ReadOnlySpan<byte> low, ReadOnlySpan<byte> high, int to, EdgeFlags flags)
    {
        if (low.Length == 1)
        {
            Bytes(from, low[0], high[0], to, flags);
            return;
        }
        var (first, last) = (low[0], high[0]);
        ReadOnlySpan<byte> lowest = [0x80, 0x80, 0x80];
        ReadOnlySpan<byte> highest = [0xBF, 0xBF, 0xBF];
        var count = low.Length - 1;
        if (first == last)
        {
            if (low[1..].SequenceEqual(lowest[..count]) && high[1..].SequenceEqual(highest[..count]))
            {
                Bytes(from, first, first, Continuation(from, to, count), flags);
                return;
            }
            var next = NewState(States[from].Rule);
            Bytes(from, first, first, next, flags);
            Sequence(next, low[1..], high[1..], to, EdgeFlags.None);
            return;
        }
        if (!low[1..].SequenceEqual(lowest[..count]))
        {
            Sequence(from, low, [first, .. highest[..count]], to, flags);
            first++;
        }
        if (!high[1..].SequenceEqual(highest[..count]))
        {
            Sequence(from, [last, .. lowest[..count]], high, to, flags);
            last--;
        }
        if (first <= last) Bytes(from, first, last, Continuation(from, to, count), flags);
    }

    private int Continuation(int from, int to, int count)
    {
        if (count == 0) return to;
        if (_continuations.TryGetValue((to, count), out var state)) return state;
        state = NewState(States[from].Rule);
        Bytes(state, 0x80, 0xBF, Continuation(from, to, count - 1));
        _continuations[(to, count)] = state;
        return state;
    }

    /// <summary>Heights of all rules, by iteration to the least fixed point: a rule is looked at again when one that it calls has become lower. A rule that never ends keeps a large one.</summary>
    public void FindHeights()
    {
        const int Endless = 1 << 20;
        var callers = States.SelectMany(static s => s.Calls.Select(call => (call.Rule, Caller: s.Rule))).Distinct().ToLookup(static pair => pair.Rule, static pair => pair.Caller);
        var waiting = States.Select(static s => s.Rule).ToHashSet();
        foreach (var rule in waiting) rule.Height = Endless;
        var queue = new Queue<GrammarRule>(waiting);
        while (queue.TryDequeue(out var rule))
        {
            waiting.Remove(rule);
            var height = Math.Min(Endless, HeightOf(rule, Endless) + (rule.Nests ? 1 : 0));
            if (height >= rule.Height) continue;
            rule.Height = height;
            foreach (var caller in callers[rule])
            {
                if (waiting.Add(caller)) queue.Enqueue(caller);
            }
        }
    }

    /// <summary>Least, over the ways through a rule, of the highest call on it.</summary>
    private int HeightOf(GrammarRule rule, int endless)
    {
        var best = new Dictionary<int, int> { [rule.Start] = 0 };
        var queue = new PriorityQueue<int, int>();
        queue.Enqueue(rule.Start, 0);
        while (queue.TryDequeue(out var state, out var height))
        {
            if (height > best[state]) continue;
            if (States[state].IsExit) return height;
            foreach (var edge in States[state].Bytes) Relax(edge.Target, height);
            foreach (var next in States[state].Epsilons) Relax(next, height);
            foreach (var call in States[state].Calls) Relax(call.Return, Math.Max(height, call.Rule.Height));
        }
        return endless;

        void Relax(int state, int height)
        {
            if (best.TryGetValue(state, out var known) && known <= height) return;
            best[state] = height;
            queue.Enqueue(state, height);
        }
    }
}
