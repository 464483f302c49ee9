using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// The fewest tokens that complete a document. Tokens do not end where rules do, so what a rule costs depends on the node of the trie at which the token before has brought it: for each
/// state and node on the way, its ends are found as pairs of a node and the tokens finished until there. Rules that contain themselves are solved by iterating to the least fixed point.
/// </summary>
internal sealed class CompletionCosts(GrammarAutomaton automaton, TokenTrie trie, Func<int, TextTable> tableOf)
{
    public const int Impossible = 1 << 29;

    private readonly GrammarNetwork _network = automaton.Network;
    private readonly Dictionary<(int State, int Count, int Node), Entry> _entries = [];
    private readonly Dictionary<(int Stack, int Node), int> _rest = [];
    private readonly Dictionary<int, int> _places = [];
    private readonly Queue<Entry> _new = new();
    private readonly Queue<(Entry Entry, int Node)> _improved = new();

    /// <summary>Fewest tokens that complete a document from a place, at the end of a token.</summary>
    public int Of(int place)
    {
        if (_places.TryGetValue(place, out var known)) return known;
        var least = Impossible;
        foreach (var stack in automaton.Stacks(place)) least = Math.Min(least, Of(stack, TokenTrie.Root));
        return _places[place] = least;
    }

    private int Of(int stack, int node)
    {
        if (stack == GrammarAutomaton.Complete) return node == TokenTrie.Root ? 0 : Impossible;
        if (_rest.TryGetValue((stack, node), out var known)) return known;
        var frame = automaton.Stack(stack);
        var entry = EntryOf(frame.State, frame.Count, node);
        Solve();
        var least = Impossible;
        foreach (var (end, cost) in entry.Ends)
        {
            if (cost < least) least = Math.Min(least, cost + Of(frame.Parent, end));
        }
        return _rest[(stack, node)] = least;
    }

    private Entry EntryOf(int state, int count, int node)
    {
        if (_entries.TryGetValue((state, count, node), out var entry)) return entry;
        entry = new Entry(state, count, node);
        _entries[(state, count, node)] = entry;
        _new.Enqueue(entry);
        return entry;
    }

    private void Solve()
    {
        while (true)
        {
            if (_improved.TryDequeue(out var improved))
            {
                var cost = improved.Entry.Ends[improved.Node];
                // Users are added while they are told.
                for (var i = 0; i < improved.Entry.Users.Count; i++) Tell(improved.Entry.Users[i], improved.Node, cost);
            }
            else if (_new.TryDequeue(out var entry))
            {
                Explore(entry, entry.State, entry.Count, entry.Node, 0, isFirst: true);
            }
            else
            {
                return;
            }
        }
    }

    private void Tell(User user, int node, int cost)
    {
        if (user.State < 0) End(user.Entry, node, user.Cost + cost);
        else Explore(user.Entry, user.State, user.Count, node, user.Cost + cost);
    }

    private void Use(Entry used, User user)
    {
        used.Users.Add(user);
        foreach (var (node, cost) in used.Ends.ToArray()) Tell(user, node, cost);
    }

    private void End(Entry entry, int node, int cost)
    {
        if (entry.Ends.TryGetValue(node, out var known) && known <= cost) return;
        entry.Ends[node] = cost;
        _improved.Enqueue((entry, node));
    }

    /// <summary>Follows a state while the token goes on; from the end of a token on, whatever came before, the rest is another entry's.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Explore(Entry entry, int number, int count, int node, int cost, bool isFirst = false)
    {
        if (entry.Seen.TryGetValue((number, count, node), out var known) && known <= cost) return;
        entry.Seen[(number, count, node)] = cost;
        if (node == TokenTrie.Root && !isFirst)
        {
            Use(EntryOf(number, count, node), new User(entry, -1, 0, cost));
            return;
        }
        var state = _network.States[number];
        if (state.IsExit) End(entry, node, cost);
        foreach (var next in state.Epsilons) Explore(entry, next, count, node, cost);
        foreach (var call in state.Calls)
        {
            if (state.Rule.TryStep(count, call.Flags, out var counted)) Use(EntryOf(call.Rule.Start, 0, node), new User(entry, call.Return, counted, cost));
        }
        if (state.Rule.IsText && node == TokenTrie.Root)
        {
            ExploreText(entry, state.Rule, number, count, cost);
            return;
        }
        for (var child = node + 1; child < trie.End(node); child = trie.End(child))
        {
            var label = trie.Label(child);
            foreach (var edge in state.Bytes)
            {
                if (label >= edge.Low && label <= edge.High && state.Rule.TryStep(count, edge.Flags, out var counted)) Arrive(entry, edge.Target, counted, child, cost);
            }
        }
    }

    private void Arrive(Entry entry, int state, int count, int node, int cost)
    {
        if (trie.Token(node) >= 0) Explore(entry, state, count, TokenTrie.Root, cost + 1);
        if (trie.HasChildren(node)) Explore(entry, state, count, node, cost);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void ExploreText(Entry entry, GrammarRule rule, int number, int count, int cost)
    {
        var table = tableOf(number);
        foreach (var exit in table.Exits)
        {
            if (!rule.TryAdd(count, exit.Added, out var counted) || counted < rule.Minimum) continue;
            if (trie.Token(exit.Node) >= 0) End(entry, TokenTrie.Root, cost + 1);
            if (trie.HasChildren(exit.Node)) End(entry, exit.Node, cost);
        }
        foreach (var step in table.Inside)
        {
            // Where characters are alike and enough of them are there, more of them bring no end nearer.
            var isIdle = rule.IsPlainString && rule.Start + step.Target == number && count >= rule.Minimum;
            if (!isIdle && rule.TryAdd(count, step.Added, out var counted)) Explore(entry, rule.Start + step.Target, counted, TokenTrie.Root, cost + 1);
        }
    }

    /// <param name="Entry">Which goes on where another one ends.</param>
    /// <param name="State">Where it goes on; -1 where it ends with it.</param>
    /// <param name="Count">What its rule has counted.</param>
    /// <param name="Cost">Tokens until there.</param>
    private readonly record struct User(Entry Entry, int State, int Count, int Cost);

    /// <summary>A state at a node of the trie, and its rule's ends from there.</summary>
    private sealed class Entry(int state, int count, int node)
    {
        public int State { get; } = state;
        public int Count { get; } = count;
        public int Node { get; } = node;
        public Dictionary<int, int> Ends { get; } = [];
        public List<User> Users { get; } = [];
        public Dictionary<(int State, int Count, int Node), int> Seen { get; } = [];
    }
}
