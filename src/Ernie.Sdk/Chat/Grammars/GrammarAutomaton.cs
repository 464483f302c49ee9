using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Runs a <see cref="GrammarNetwork"/>, made deterministic as it goes. A place in a document is a set of stacks; stacks and sets are numbered when first met, so that what is found out
/// about one is kept by its number. Not safe for concurrent use.
/// </summary>
internal sealed class GrammarAutomaton
{
    /// <summary>The stack of a complete document.</summary>
    public const int Complete = 0;

    /// <summary>The place that no document leads to.</summary>
    public const int Dead = 0;

    /// <summary>System.Text.Json reads documents up to this depth unless told otherwise.</summary>
    private const int MaximumNesting = 64;

    private readonly GrammarNetwork _network;
    private readonly List<Frame> _stacks = [new(-1, 0, -1, 0)];
    private readonly Dictionary<(int State, int Count, int Parent), int> _stackIds = [];
    private readonly List<int[]> _places = [[]];
    private readonly Dictionary<int[], int> _placeIds = new(new ArrayComparer()) { [[]] = Dead };
    private readonly List<int[]?> _steps = [null];
    private readonly HashSet<(int State, int Count, int Parent)> _seen = [];
    private readonly SortedSet<int> _open = [];

    public GrammarAutomaton(GrammarNetwork network, GrammarRule start)
    {
        _network = network;
        Enter(start.Start, 0, Complete);
        Start = TakePlace();
    }

    /// <param name="State">Where it goes on.</param>
    /// <param name="Count">What its rule has counted.</param>
    /// <param name="Parent">The stack below.</param>
    /// <param name="Depth">Objects and arrays that it stands in.</param>
    public readonly record struct Frame(int State, int Count, int Parent, int Depth);

    public int Start { get; }

    public GrammarNetwork Network => _network;

    public Frame Stack(int stack) => _stacks[stack];

    public ReadOnlySpan<int> Stacks(int place) => _places[place];

    public bool IsComplete(int place) => _places[place] is [Complete, ..];

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
    public int After(int stack)
    {
        Leave(_stacks[stack].Parent);
        return TakePlace();
    }

    /// <summary>The place of some stacks.</summary>
    public int Of(IEnumerable<int> stacks)
    {
        _open.UnionWith(stacks);
        return TakePlace();
    }

    /// <summary>The place within a text.</summary>
    public int Within(int state, int count, int parent)
    {
        _open.Add(Number(state, count, parent));
        return TakePlace();
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int Step(int place, byte value)
    {
        foreach (var stack in _places[place])
        {
            if (stack == Complete) continue;
            var frame = _stacks[stack];
            var state = _network.States[frame.State];
            foreach (var edge in state.Bytes)
            {
                if (value >= edge.Low && value <= edge.High && state.Rule.TryStep(frame.Count, edge.Flags, out var count)) Enter(edge.Target, count, frame.Parent);
            }
        }
        return TakePlace();
    }

    /// <summary>Adds the stacks that wait for a byte, from a state on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Enter(int number, int count, int parent)
    {
        if (!_seen.Add((number, count, parent))) return;
        var state = _network.States[number];
        if (state.Bytes.Count > 0) _open.Add(Number(number, count, parent));
        foreach (var next in state.Epsilons) Enter(next, count, parent);
        foreach (var call in state.Calls)
        {
            if (!state.Rule.TryStep(count, call.Flags, out var counted)) continue;
            // Where nothing follows a call, its end is its caller's: lists of lists stay as flat as they are.
            var below = IsBareExit(call.Return) && !state.Rule.Nests ? parent : Number(call.Return, counted, parent);
            if (_stacks[below].Depth + call.Rule.Height <= MaximumNesting) Enter(call.Rule.Start, 0, below);
        }
        if (state.IsExit) Leave(parent);
    }

    private void Leave(int parent)
    {
        if (parent == Complete) _open.Add(Complete);
        else Enter(_stacks[parent].State, _stacks[parent].Count, _stacks[parent].Parent);
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
    private int TakePlace()
    {
        int[] stacks = [.. _open];
        _open.Clear();
        _seen.Clear();
        if (_placeIds.TryGetValue(stacks, out var known)) return known;
        _placeIds[stacks] = _places.Count;
        _places.Add(stacks);
        _steps.Add(null);
        return _places.Count - 1;
    }

    private sealed class ArrayComparer : IEqualityComparer<int[]>
    {
        public bool Equals(int[]? x, int[]? y) => x.AsSpan().SequenceEqual(y);

        public int GetHashCode(int[] values)
        {
            var hash = new HashCode();
            foreach (var value in values) hash.Add(value);
            return hash.ToHashCode();
        }
    }
}
