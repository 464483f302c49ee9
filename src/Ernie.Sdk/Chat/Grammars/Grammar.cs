using System.Numerics;
using System.Runtime.CompilerServices;
using System.Text;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>A grammar over a vocabulary: which tokens may come next at a place in a document, and how many tokens complete it. Safe for concurrent use.</summary>
internal sealed class Grammar
{
    // 13 kB each for the whole vocabulary.
    private const int MaximumMasks = 512;

    private readonly object _gate = new();
    private readonly GrammarVocabulary _vocabulary;
    private readonly GrammarNetwork _network;
    private readonly GrammarAutomaton _automaton;
    private readonly CompletionCosts _costs;
    private readonly ForbiddenBytes _forbidden;
    private readonly Dictionary<(int State, int Search), TextTable> _tables = [];
    private readonly Dictionary<int, Choice> _choices = [];
    private readonly int[] _path;

    /// <param name="network">Rules.</param>
    /// <param name="start">The rule of a document.</param>
    /// <param name="vocabulary">Tokens.</param>
    /// <param name="forbidden">Texts that no document has.</param>
    public Grammar(GrammarNetwork network, GrammarRule start, GrammarVocabulary vocabulary, ForbiddenBytes forbidden)
    {
        network.FindHeights();
        (_network, _vocabulary, _forbidden) = (network, vocabulary, forbidden);
        _automaton = new GrammarAutomaton(network, start, forbidden);
        _costs = new CompletionCosts(_automaton, vocabulary.Trie, forbidden, TableOf);
        _path = new int[vocabulary.Trie.MaximumDepth + 1];
        MinimumTokens = _costs.Of(_automaton.Start);
    }

    /// <summary>Fewest tokens of a document; <see cref="CompletionCosts.Impossible"/> where there is none.</summary>
    public int MinimumTokens { get; }

    public int Start => _automaton.Start;

    /// <summary>Of its rules; what is found out about it takes memory in proportion.</summary>
    public int StateCount => _network.States.Count;

    /// <summary>The rule of what comes before the answer, if anything does.</summary>
    public GrammarRule? Reasoning { get; init; }

    public bool IsComplete(int place)
    {
        lock (_gate) return _automaton.IsComplete(place);
    }

    public bool IsReasoning(int place)
    {
        if (Reasoning is null) return false;
        lock (_gate) return _automaton.Stacks(place) is [> GrammarAutomaton.Complete and var stack, ..] && _network.States[_automaton.Stack(stack).State].Rule == Reasoning;
    }

    /// <summary>The place after a token; <see cref="GrammarAutomaton.Dead"/> if the token may not come there.</summary>
    public int Next(int place, int token) => _vocabulary.Trie.Bytes(token) is { } bytes ? Next(place, bytes) : GrammarAutomaton.Dead;

    /// <summary>The place after bytes, which need not be whole tokens.</summary>
    public int Next(int place, ReadOnlySpan<byte> text)
    {
        lock (_gate)
        {
            foreach (var value in text) place = _automaton.Next(place, value);
            return place;
        }
    }

    /// <summary>Fewest tokens from a place to the end.</summary>
    public int TokensToEnd(int place)
    {
        lock (_gate) return _costs.Of(place);
    }

    /// <summary>Sets the bits of the tokens after which <paramref name="remaining"/> - 1 tokens still complete the document.</summary>
    public void Allow(int place, int remaining, Span<ulong> mask)
    {
        lock (_gate)
        {
            if (!_choices.TryGetValue(place, out var choice))
            {
                if (_choices.Count >= MaximumMasks) _choices.Clear();
                _choices[place] = choice = Choose(place);
            }
            if (choice.Worst < remaining)
            {
                choice.All.CopyTo(mask);
                mask[choice.All.Length..].Clear();
                return;
            }
            mask.Clear();
            foreach (var (cost, tokens) in choice.Groups)
            {
                if (cost < remaining) tokens.AddTo(mask);
            }
        }
    }

    /// <summary>Finds the masks along a shortest document ahead of their use, and in a text those of an answer with and without tags, and of a call.</summary>
    public void Rehearse()
    {
        const int Most = 64;
        var mask = new ulong[(_vocabulary.Trie.TokenCount + 63) / 64];
        var place = Start;
        for (var i = 0; i < Most && TokensToEnd(place) is > 0 and var left; i++)
        {
            Allow(place, left, mask);
            var word = mask.AsSpan().IndexOfAnyExcept(0UL);
            place = Next(place, (word << 6) + BitOperations.TrailingZeroCount(mask[word]));
        }
        foreach (var text in new[] { "", "A", "<response>\nA", "<tool_call>\n" })
        {
            var after = Next(place, Encoding.UTF8.GetBytes(text));
            if (after != GrammarAutomaton.Dead) Allow(after, int.MaxValue, mask);
        }
    }

    private TextTable TableOf(int state, int search)
    {
        if (_network.States[state].Rule.IsPlainString && _forbidden.IsEmpty) return _vocabulary.Plain(_network, state);
        if (!_tables.TryGetValue((state, search), out var table)) _tables[(state, search)] = table = TextTable.Of(_network, state, _vocabulary.Trie, _forbidden, search);
        return table;
    }

    /// <summary>
    /// Sorts the tokens that may come by what they leave to do. Each stack of the place says so for itself: a token may come if it may for one of them, and costs what it does for the best.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private Choice Choose(int place)
    {
        var trie = _vocabulary.Trie;
        var ends = new Dictionary<int, List<int>>();
        var groups = new List<(int Cost, TokenSet Tokens)>();
        var others = new List<int>();
        foreach (var stack in _automaton.Stacks(place).ToArray())
        {
            if (stack == GrammarAutomaton.Complete) continue;
            if (_network.States[_automaton.Stack(stack).State].Rule.IsText) AddText(stack, _automaton.Search(place), ends, groups);
            else others.Add(stack);
        }
        if (others.Count > 0) Walk(TokenTrie.Root, _automaton.Of(others, _automaton.Search(place)), ends);
        foreach (var (end, tokens) in ends) groups.Add((_costs.Of(end), new TokenSet(tokens, trie.TokenCount)));

        groups.RemoveAll(static group => group.Cost >= CompletionCosts.Impossible);
        var all = new ulong[(trie.TokenCount + 63) / 64];
        foreach (var (_, tokens) in groups) tokens.AddTo(all);
        return new Choice(all, [.. groups], groups.Count == 0 ? 0 : groups.Max(static group => group.Cost));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void AddText(int stack, int search, Dictionary<int, List<int>> ends, List<(int Cost, TokenSet Tokens)> groups)
    {
        var frame = _automaton.Stack(stack);
        var rule = _network.States[frame.State].Rule;
        var table = TableOf(frame.State, search);
        foreach (var step in table.Inside)
        {
            if (rule.TryAdd(frame.Count, step.Added, out var count)) groups.Add((_costs.Of(_automaton.Within(rule.Start + step.Target, count, frame.Parent, step.Search)), step.Tokens));
        }
        var afters = new Dictionary<int, int>();
        foreach (var exit in table.Exits)
        {
            if (!rule.TryAdd(frame.Count, exit.Added, out var count) || count < rule.Minimum) continue;
            if (!afters.TryGetValue(exit.Search, out var after)) afters[exit.Search] = after = _automaton.After(stack, exit.Search);
            Add(ends, after, exit.Node);
            Walk(exit.Node, after, ends);
        }
    }

    /// <summary>Finds where the tokens under a node end.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Walk(int top, int place, Dictionary<int, List<int>> ends)
    {
        var trie = _vocabulary.Trie;
        _path[trie.Depth(top)] = place;
        for (var node = top + 1; node < trie.End(top);)
        {
            var depth = trie.Depth(node);
            var next = _automaton.Next(_path[depth - 1], trie.Label(node));
            if (next == GrammarAutomaton.Dead)
            {
                node = trie.End(node);
                continue;
            }
            _path[depth] = next;
            Add(ends, next, node);
            node++;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Add(Dictionary<int, List<int>> ends, int place, int node)
    {
        for (var token = _vocabulary.Trie.Token(node); token >= 0; token = _vocabulary.Trie.Twin(token))
        {
            if (!ends.TryGetValue(place, out var tokens)) ends[place] = tokens = [];
            tokens.Add(token);
        }
    }

    /// <param name="All">Every token after which the document can be completed.</param>
    /// <param name="Groups">The same, by the fewest tokens that complete it.</param>
    /// <param name="Worst">The largest of those.</param>
    private sealed record Choice(ulong[] All, (int Cost, TokenSet Tokens)[] Groups, int Worst);
}
