using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>The arguments of one call.</summary>
internal sealed class JinjaArguments(string function, IReadOnlyList<object?> positional, IReadOnlyDictionary<string, object?>? named = null)
{
    private static readonly Dictionary<string, object?> s_none = [];

    public string Function { get; } = function;

    public IReadOnlyList<object?> Positional { get; } = positional;

    public IReadOnlyDictionary<string, object?> Named { get; } = named ?? s_none;

    /// <summary>Gives arguments to parameters by position and name.</summary>
    public BoundArguments Bind(params ReadOnlySpan<string> parameters)
    {
        if (Positional.Count > parameters.Length) throw new JinjaException($"'{Function}' takes at most {parameters.Length} arguments, it was given {Positional.Count}");
        var values = new object?[parameters.Length];
        var isGiven = new bool[parameters.Length];
        for (var i = 0; i < Positional.Count; i++) (values[i], isGiven[i]) = (Positional[i], true);
        foreach (var (name, value) in Named)
        {
            var i = parameters.IndexOf(name);
            if (i < 0) throw new JinjaException($"'{Function}' has no argument '{name}'");
            if (isGiven[i]) throw new JinjaException($"'{Function}' was given '{name}' twice");
            (values[i], isGiven[i]) = (value, true);
        }
        return new BoundArguments(Function, values, isGiven);
    }
}

/// <summary>The arguments of a call by parameter.</summary>
internal readonly struct BoundArguments(string function, object?[] values, bool[] isGiven)
{
    public bool Has(int index) => isGiven[index];

    public object? this[int index] => isGiven[index] ? values[index] : throw new JinjaException($"'{function}' lacks its argument {index + 1}");

    public object? Or(int index, object? otherwise) => isGiven[index] ? values[index] : otherwise;

    public bool Flag(int index, bool otherwise) => isGiven[index] ? PythonValue.IsTrue(values[index]) : otherwise;

    /// <summary>A string; what undefined values print, nothing, is one too.</summary>
    public PromptText Text(int index) => this[index] switch
    {
        PromptText text => text,
        Undefined => default,
        var other => throw new JinjaException($"'{function}' needs a string, not a {PythonValue.TypeName(other)}"),
    };

    public PromptText Text(int index, string otherwise) => isGiven[index] ? Text(index) : otherwise;

    public int Integer(int index) => this[index] switch
    {
        bool flag => flag ? 1 : 0,
        BigInteger value => value > int.MaxValue ? int.MaxValue : value < int.MinValue + 1 ? int.MinValue + 1 : (int)value,
        var other => throw new JinjaException($"'{function}' needs a whole number, not a {PythonValue.TypeName(other)}"),
    };

    public int Integer(int index, int otherwise) => isGiven[index] ? Integer(index) : otherwise;
}
