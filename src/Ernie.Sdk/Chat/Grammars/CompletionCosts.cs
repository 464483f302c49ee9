using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// The fewest tokens that complete a document. Tokens do not end where rules do, so what a rule costs depends on the node of the trie at which the token before has brought it: for each
/// state and node on the way, its ends are found as pairs of a node and the tokens finished until there. Rules that contain themselves are solved by iterating to the least fixed point.
/// </summary>
/// <remarks>
/// Solved as if documents could be of any depth, and of the shortest ways those that are the flattest: most fit into the depth that is left. A state whose way does not is solved again for that depth.
/// </remarks>
internal sealed class CompletionCosts(GrammarAutomaton automaton, TokenTrie trie, ForbiddenBytes forbidden, Func<int, int, TextTable> tableOf)
{
    public const int Impossible = 1 << 29;

    private const int AnyDepth = int.MaxValue;

    private readonly GrammarNetwork _network = automaton.Network;
    private readonly Dictionary<(int State, int Count, Spot At, int Room), Entry> _entries = [];
    private readonly Dictionary<(int Stack, Spot At), int> _rest = [];
    private readonly Dictionary<int, int> _places = [];
    private readonly Queue<Entry> _new = new();
    private readonly Queue<(Entry Entry, Spot At)> _improved = new();
    // Schemas decide how many states follow one another without a byte: they wait here and not on the thread's stack.
    private readonly Stack<(Entry Entry, int State, int Count, Spot At, Way Way)> _next = new();

    /// <summary>Fewest tokens that complete a document from a place, at the end of a token.</summary>
    public int Of(int place)
    {
        if (_places.TryGetValue(place, out var known)) return known;
        var least = Impossible;
        foreach (var stack in automaton.Stacks(place))
        {
            least = Math.Min(least, Of(stack, new Spot(TokenTrie.Root, automaton.Search(place))));
            if (least == 0) break;
        }
        return _places[place] = least;
    }

    private int Of(int stack, Spot at)
    {
        if (stack == GrammarAutomaton.Complete) return at.Node == TokenTrie.Root ? 0 : Impossible;
        if (_rest.TryGetValue((stack, at), out var known)) return known;
        var frame = automaton.Stack(stack);
        var room = GrammarAutomaton.MaximumNesting - frame.Depth;
        var entry = EntryOf(frame.State, frame.Count, at, AnyDepth);
        Solve();
        if (entry.Depth > room)
        {
            entry = EntryOf(frame.State, frame.Count, at, room);
            Solve();
        }
        var least = Impossible;
        foreach (var (end, way) in entry.Ends)
        {
            if (way.Tokens < least) least = Math.Min(least, way.Tokens + Of(frame.Parent, end));
        }
        return _rest[(stack, at)] = least;
    }

    /// <summary>The entry of a depth, or that of any depth where it is not too deep: it was solved before.</summary>
    private Entry EntryOf(int state, int count, Spot at, int room)
    {
        if (room != AnyDepth && _entries.TryGetValue((state, count, at, AnyDepth), out var any) && any.Depth <= room) return any;
        if (_entries.TryGetValue((state, count, at, room), out var entry)) return entry;
        entry = new Entry(state, count, at, room);
        _entries[(state, count, at, room)] = entry;
        _new.Enqueue(entry);
        return entry;
    }

    private void Solve()
    {
        while (true)
        {
            if (_next.TryPop(out var next))
            {
                Explore(next.Entry, next.State, next.Count, next.At, next.Way);
            }
            else if (_improved.TryDequeue(out var improved))
            {
                var way = improved.Entry.Ends[improved.At];
                // Users are added while they are told.
                for (var i = 0; i < improved.Entry.Users.Count; i++) Tell(improved.Entry.Users[i], improved.At, way);
            }
            else if (_new.TryDequeue(out var entry))
            {
                Explore(entry, entry.State, entry.Count, entry.At, default, isFirst: true);
            }
            else
            {
                return;
            }
        }
    }

    private void Tell(User user, Spot at, Way way)
    {
        var whole = new Way(user.Way.Tokens + way.Tokens, Math.Max(user.Way.Depth, way.Depth + user.Nesting));
        if (user.State < 0) End(user.Entry, at, whole);
        else _next.Push((user.Entry, user.State, user.Count, at, whole));
    }

    private void Use(Entry used, User user)
    {
        used.Users.Add(user);
        foreach (var (at, way) in used.Ends.ToArray()) Tell(user, at, way);
    }

    private void End(Entry entry, Spot at, Way way)
    {
        if (entry.Ends.TryGetValue(at, out var known) && !way.IsBetterThan(known)) return;
        entry.Ends[at] = way;
        _improved.Enqueue((entry, at));
    }

    /// <summary>Follows a state while the token goes on; from the end of a token on, whatever came before, the rest is another entry's.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Explore(Entry entry, int number, int count, Spot at, Way way, bool isFirst = false)
    {
        if (entry.Seen.TryGetValue((number, count, at), out var known) && !way.IsBetterThan(known)) return;
        entry.Seen[(number, count, at)] = way;
        if (at.Node == TokenTrie.Root && !isFirst)
        {
            Use(EntryOf(number, count, at, entry.Room), new User(entry, -1, 0, way, 0));
            return;
        }
        var state = _network.States[number];
        if (state.IsExit) End(entry, at, way);
        foreach (var next in state.Epsilons) _next.Push((entry, next, count, at, way));
        foreach (var call in state.Calls)
        {
            if (!state.Rule.TryStep(count, call.Flags, out var counted) || call.Rule.Height > entry.Room) continue;
            var nesting = call.Rule.Nests ? 1 : 0;
            Use(EntryOf(call.Rule.Start, 0, at, entry.Room == AnyDepth ? AnyDepth : entry.Room - nesting), new User(entry, call.Return, counted, way, nesting));
        }
        if (state.Rule.IsText && at.Node == TokenTrie.Root)
        {
            ExploreText(entry, state.Rule, number, count, at.Search, way);
            return;
        }
        for (var child = at.Node + 1; child < trie.End(at.Node); child = trie.End(child))
        {
            var label = trie.Label(child);
            var search = forbidden.Next(at.Search, label);
            if (search == ForbiddenBytes.Found) continue;
            foreach (var edge in state.Bytes)
            {
                if (label >= edge.Low && label <= edge.High && state.Rule.TryStep(count, edge.Flags, out var counted)) Arrive(entry, edge.Target, counted, new Spot(child, search), way);
            }
        }
    }

    private void Arrive(Entry entry, int state, int count, Spot at, Way way)
    {
        if (trie.Token(at.Node) >= 0) Explore(entry, state, count, at with { Node = TokenTrie.Root }, way.Longer());
        if (trie.HasChildren(at.Node)) Explore(entry, state, count, at, way);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void ExploreText(Entry entry, GrammarRule rule, int number, int count, int search, Way way)
    {
        var table = tableOf(number, search);
        foreach (var exit in table.Exits)
        {
            if (!rule.TryAdd(count, exit.Added, out var counted) || counted < rule.Minimum) continue;
            if (trie.Token(exit.Node) >= 0) End(entry, new Spot(TokenTrie.Root, exit.Search), way.Longer());
            if (trie.HasChildren(exit.Node)) End(entry, new Spot(exit.Node, exit.Search), way);
        }
        foreach (var step in table.Inside)
        {
            // Where characters are alike and enough of them are there, more of them bring no end nearer.
            var isIdle = rule.IsPlainString && rule.Start + step.Target == number && count >= rule.Minimum && step.Search == search;
            if (!isIdle && rule.TryAdd(count, step.Added, out var counted)) Explore(entry, rule.Start + step.Target, counted, new Spot(TokenTrie.Root, step.Search), way.Longer());
        }
    }

    /// <param name="Node">Of the trie: how far a token has come.</param>
    /// <param name="Search">How far a forbidden text has come.</param>
    private readonly record struct Spot(int Node, int Search);

    /// <param name="Tokens">Finished on the way.</param>
    /// <param name="Depth">Objects and arrays that stand in one another on it, within the rule that it leads through.</param>
    private readonly record struct Way(int Tokens, int Depth)
    {
        public bool IsBetterThan(Way other) => Tokens < other.Tokens || (Tokens == other.Tokens && Depth < other.Depth);

        public Way Longer() => this with { Tokens = Tokens + 1 };
    }

    /// <param name="Entry">Which goes on where another one ends.</param>
    /// <param name="State">Where it goes on; -1 where it ends with it.</param>
    /// <param name="Count">What its rule has counted.</param>
    /// <param name="Way">Until there.</param>
    /// <param name="Nesting">What the other one adds to the depth by being there.</param>
    private readonly record struct User(Entry Entry, int State, int Count, Way Way, int Nesting);

    /// <summary>A state at a spot, and its rule's ends from there.</summary>
    private sealed class Entry(int state, int count, Spot at, int room)
    {
        public int State { get; } = state;
        public int Count { get; } = count;
        public Spot At { get; } = at;

        /// <summary>Objects and arrays that may still be opened.</summary>
        public int Room { get; } = room;
        public Dictionary<Spot, Way> Ends { get; } = [];
        public List<User> Users { get; } = [];
        public Dictionary<(int State, int Count, Spot At), Way> Seen { get; } = [];

        public int Depth => Ends.Count == 0 ? 0 : Ends.Values.Max(static way => way.Depth);
    }
}
