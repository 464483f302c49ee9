using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Runs a <see cref="GrammarNetwork"/>, made deterministic as it goes. A place in a document is a set of stacks; stacks and sets are numbered when first met, so that what is found out
/// about one is kept by its number. Texts may be forbidden; how far the search for them has come is part of a place. Not safe for concurrent use.
/// </summary>
internal sealed class GrammarAutomaton
{
    /// <summary>The stack of a complete document.</summary>
    public const int Complete = 0;

    /// <summary>The place that no document leads to.</summary>
    public const int Dead = 0;

    /// <summary>System.Text.Json reads documents up to this depth unless told otherwise.</summary>
    public const int MaximumNesting = 64;

    private readonly GrammarNetwork _network;
    private readonly ForbiddenBytes _forbidden;
    private readonly List<Frame> _stacks = [new(-1, 0, -1, 0)];
    private readonly Dictionary<(int State, int Count, int Parent), int> _stackIds = [];
    private readonly List<(int[] Stacks, int Search)> _places = [([], ForbiddenBytes.Start)];
    private readonly Dictionary<(int[] Stacks, int Search), int> _placeIds = new(new PlaceComparer());
    private readonly List<int[]?> _steps = [null];
    private readonly HashSet<(int State, int Count, int Parent)> _seen = [];
    private readonly SortedSet<int> _open = [];
    private readonly Stack<(int State, int Count, int Parent)> _entered = [];

    public GrammarAutomaton(GrammarNetwork network, GrammarRule start, ForbiddenBytes forbidden)
    {
        (_network, _forbidden) = (network, forbidden);
        _entered.Push((start.Start, 0, Complete));
        Follow();
        Start = TakePlace(ForbiddenBytes.Start);
    }

    /// <param name="State">Where it goes on.</param>
    /// <param name="Count">What its rule has counted.</param>
    /// <param name="Parent">The stack below.</param>
    /// <param name="Depth">Objects and arrays that it stands in.</param>
    public readonly record struct Frame(int State, int Count, int Parent, int Depth);

    public int Start { get; }

    public GrammarNetwork Network => _network;

    public Frame Stack(int stack) => _stacks[stack];

    public ReadOnlySpan<int> Stacks(int place) => _places[place].Stacks;

    /// <summary>How far forbidden texts have come at a place.</summary>
    public int Search(int place) => _places[place].Search;

    public bool IsComplete(int place) => _places[place].Stacks is [Complete, ..];

    /// <summary>The place after a byte.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public int Next(int place, byte value)
    {
        if (place == Dead) return Dead;
        if (_steps[place] is not { } steps)
        {
            steps = new int[256];
            Array.Fill(steps, -1);
            _steps[place] = steps;
        }
        if (steps[value] < 0) steps[value] = Step(place, value);
        return steps[value];
    }

    /// <summary>The place at which a text's rule is left into the stack below.</summary>
    public int After(int stack, int search)
    {
        Leave(_stacks[stack].Parent);
        Follow();
        return TakePlace(search);
    }

    /// <summary>The place of some stacks.</summary>
    public int Of(IEnumerable<int> stacks, int search)
    {
        _open.UnionWith(stacks);
        return TakePlace(search);
    }

    /// <summary>The place within a text.</summary>
    public int Within(int state, int count, int parent, int search)
    {
        Wait(state, count, parent);
        return TakePlace(search);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int Step(int place, byte value)
    {
        var search = _forbidden.Next(_places[place].Search, value);
        if (search == ForbiddenBytes.Found) return Dead;
        foreach (var stack in _places[place].Stacks)
        {
            if (stack == Complete) continue;
            var frame = _stacks[stack];
            var state = _network.States[frame.State];
            foreach (var edge in state.Bytes)
            {
                if (value >= edge.Low && value <= edge.High && state.Rule.TryStep(frame.Count, edge.Flags, out var count)) _entered.Push((edge.Target, count, frame.Parent));
            }
        }
        Follow();
        return TakePlace(search);
    }

    /// <summary>Adds the stacks that wait for a byte, from the states entered on. Schemas decide how many follow one another without a byte, so this is no recursion.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Follow()
    {
        while (_entered.TryPop(out var entered))
        {
            if (!_seen.Add(entered)) continue;
            var (number, count, parent) = entered;
            var state = _network.States[number];
            if (state.Bytes.Count > 0) Wait(number, count, parent);
            foreach (var next in state.Epsilons) _entered.Push((next, count, parent));
            foreach (var call in state.Calls)
            {
                if (!state.Rule.TryStep(count, call.Flags, out var counted)) continue;
                // Where nothing follows a call, its end is its caller's: lists of lists stay as flat as they are.
                var below = IsBareExit(call.Return) && !state.Rule.Nests ? parent : Number(call.Return, counted, parent);
                if (_stacks[below].Depth + call.Rule.Height <= MaximumNesting) _entered.Push((call.Rule.Start, 0, below));
            }
            if (state.IsExit) Leave(parent);
        }
    }

    private void Wait(int state, int count, int parent)
    {
        _open.Add(Number(state, count, parent));
        if (_network.States[state].Rule.MayEnd) _open.Add(Complete);
    }

    private void Leave(int parent)
    {
        if (parent == Complete) _open.Add(Complete);
        else _entered.Push((_stacks[parent].State, _stacks[parent].Count, _stacks[parent].Parent));
    }

    private bool IsBareExit(int number) => _network.States[number] is { IsExit: true, Bytes.Count: 0, Calls.Count: 0, Epsilons.Count: 0 };

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int Number(int state, int count, int parent)
    {
        if (_stackIds.TryGetValue((state, count, parent), out var known)) return known;
        _stackIds[(state, count, parent)] = _stacks.Count;
        _stacks.Add(new Frame(state, count, parent, _stacks[parent].Depth + (_network.States[state].Rule.Nests ? 1 : 0)));
        return _stacks.Count - 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int TakePlace(int search)
    {
        int[] stacks = [.. _open];
        _open.Clear();
        _seen.Clear();
        if (stacks.Length == 0) return Dead;
        if (_placeIds.TryGetValue((stacks, search), out var known)) return known;
        _placeIds[(stacks, search)] = _places.Count;
        _places.Add((stacks, search));
        _steps.Add(null);
        return _places.Count - 1;
    }

    private sealed class PlaceComparer : IEqualityComparer<(int[] Stacks, int Search)>
    {
        public bool Equals((int[] Stacks, int Search) x, (int[] Stacks, int Search) y) => x.Search == y.Search && x.Stacks.AsSpan().SequenceEqual(y.Stacks);

        public int GetHashCode((int[] Stacks, int Search) place)
        {
            var hash = new HashCode();
            hash.Add(place.Search);
            foreach (var value in place.Stacks) hash.Add(value);
            return hash.ToHashCode();
        }
    }
}
