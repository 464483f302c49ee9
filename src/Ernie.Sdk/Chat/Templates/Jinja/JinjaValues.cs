using System.Diagnostics.CodeAnalysis;
using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

// Values of templates are objects: null is None; bool, BigInteger, double and PromptText are themselves; the rest is here.

/// <summary>What an unknown name or attribute gives: empty where it is printed or tested, an error where it is used.</summary>
internal sealed record Undefined(string Reason);

internal sealed class JinjaList(List<object?> items, bool isTuple = false)
{
    public List<object?> Items { get; } = items;

    public bool IsTuple { get; } = isTuple;

    public static JinjaList Tuple(params List<object?> items) => new(items, isTuple: true);
}

/// <summary>What filters such as map give: it can be gone through, but has no length and no items by index.</summary>
internal sealed record JinjaIterator(IReadOnlyList<object?> Items);

internal sealed record JinjaRange(int Start, int Stop, int Step)
{
    public int Count => Step > 0 ? Math.Max(0, (Stop - Start + Step - 1) / Step) : Math.Max(0, (Start - Stop - Step - 1) / -Step);

    public BigInteger this[int index] => Start + (BigInteger)index * Step;
}

/// <summary>A view of a dictionary, as <c>keys()</c>, <c>values()</c> and <c>items()</c> give it.</summary>
internal sealed record JinjaView(string Name, IReadOnlyList<object?> Items);

/// <summary>A dictionary in the order of insertion.</summary>
internal sealed class JinjaDict
{
    private readonly OrderedDictionary<Key, object?> _items = [];

    public int Count => _items.Count;

    public IEnumerable<KeyValuePair<object?, object?>> Items => _items.Select(static pair => KeyValuePair.Create(pair.Key.Value, pair.Value));

    public IEnumerable<object?> Keys => _items.Keys.Select(static key => key.Value);

    public object? this[object? key] { set => _items[new Key(key)] = value; }

    public bool TryGet(object? key, out object? value) => _items.TryGetValue(new Key(key), out value);

    /// <summary>Compared as Python compares: 1, 1.0 and True are one key.</summary>
    private readonly struct Key : IEquatable<Key>
    {
        public Key(object? value)
        {
            if (value is JinjaDict or JinjaList { IsTuple: false }) throw new JinjaException($"a {PythonValue.TypeName(value)} cannot be a key");
            Value = value;
        }

        public object? Value { get; }

        public bool Equals(Key other) => PythonValue.AreEqual(Value, other.Value);

        public override bool Equals([NotNullWhen(true)] object? obj) => obj is Key other && Equals(other);

        public override int GetHashCode() => PythonValue.Hash(Value);
    }
}

/// <summary>What <c>namespace()</c> gives: the only value that templates can change.</summary>
internal sealed class JinjaNamespace
{
    public Dictionary<string, object?> Attributes { get; } = new(StringComparer.Ordinal);
}

/// <summary>A function, filter, test or bound method.</summary>
internal delegate object? JinjaFunction(JinjaInterpreter interpreter, JinjaArguments arguments);

internal sealed record JinjaCallable(string Name, JinjaFunction Function);

internal sealed record JinjaMacro(MacroDefinition Definition, JinjaScope Scope);

/// <summary>The names of a block, and of those around it.</summary>
internal sealed class JinjaScope(JinjaScope? parent)
{
    private readonly Dictionary<string, object?> _names = new(StringComparer.Ordinal);

    public object? this[string name] { set => _names[name] = value; }

    public bool TryGet(string name, out object? value)
    {
        for (var scope = this; scope is not null; scope = scope.Parent)
        {
            if (scope._names.TryGetValue(name, out value)) return true;
        }
        value = null;
        return false;
    }

    private JinjaScope? Parent { get; } = parent;
}

/// <summary>The variable <c>loop</c>.</summary>
internal sealed class JinjaLoop(IReadOnlyList<object?> items, int depth, For? recursive, JinjaScope scope)
{
    private object? _changedFrom;
    private bool _hasChanged;

    public int Index { get; set; }

    /// <summary>How often the loop called itself.</summary>
    public int Depth { get; } = depth;

    /// <summary>The loop itself where it may be called, and the scope that it stands in.</summary>
    public For? Recursive { get; } = recursive;

    public JinjaScope Scope { get; } = scope;

    public object? Get(string name) => name switch
    {
        "index" => (BigInteger)(Index + 1),
        "index0" => (BigInteger)Index,
        "revindex" => (BigInteger)(items.Count - Index),
        "revindex0" => (BigInteger)(items.Count - Index - 1),
        "first" => Index == 0,
        "last" => Index == items.Count - 1,
        "length" => (BigInteger)items.Count,
        "depth" => (BigInteger)(Depth + 1),
        "depth0" => (BigInteger)Depth,
        "previtem" => Index > 0 ? items[Index - 1] : new Undefined("there is no previous item"),
        "nextitem" => Index < items.Count - 1 ? items[Index + 1] : new Undefined("there is no next item"),
        "cycle" => new JinjaCallable(name, (_, arguments) => arguments.Positional is { Count: > 0 } values ? values[Index % values.Count] : throw new JinjaException("cycle() needs an item")),
        "changed" => new JinjaCallable(name, (_, arguments) => Changed(JinjaList.Tuple([.. arguments.Positional]))),
        _ => new Undefined($"'loop' has no attribute '{name}'"),
    };

    private bool Changed(JinjaList values)
    {
        if (_hasChanged && PythonValue.AreEqual(values, _changedFrom)) return false;
        (_changedFrom, _hasChanged) = (values, true);
        return true;
    }
}
