using System.Collections.Frozen;
using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>What may follow <c>is</c>.</summary>
internal static class JinjaTests
{
    public static FrozenDictionary<string, JinjaFunction> All { get; } = new Dictionary<string, JinjaFunction>
    {
        ["defined"] = Of(static value => value is not Undefined),
        ["undefined"] = Of(static value => value is Undefined),
        ["none"] = Of(static value => value is null),
        ["string"] = Of(static value => value is PromptText),
        ["mapping"] = Of(static value => value is JinjaDict),
        ["sequence"] = Of(static value => value is PromptText or JinjaList or JinjaDict or JinjaRange or Undefined),
        ["iterable"] = Of(static value => value is PromptText or JinjaList or JinjaDict or JinjaRange or JinjaIterator or JinjaView or Undefined),
        ["number"] = Of(PythonValue.IsNumber),
        ["integer"] = Of(static value => value is BigInteger),
        ["float"] = Of(static value => value is double),
        ["boolean"] = Of(static value => value is bool),
        ["true"] = Of(static value => value is true),
        ["false"] = Of(static value => value is false),
        ["callable"] = Of(static value => value is JinjaCallable or JinjaMacro or JinjaLoop or Undefined),
        ["lower"] = Of(static value => JinjaMethods.HasCase(PythonValue.Str(value).Text, char.IsLower, char.IsUpper)),
        ["upper"] = Of(static value => JinjaMethods.HasCase(PythonValue.Str(value).Text, char.IsUpper, char.IsLower)),
        ["odd"] = Of(static value => !PythonValue.AreEqual(PythonValue.Apply("%", value, (BigInteger)2), BigInteger.Zero)),
        ["even"] = Of(static value => PythonValue.AreEqual(PythonValue.Apply("%", value, (BigInteger)2), BigInteger.Zero)),
        ["divisibleby"] = Of(static (value, other) => PythonValue.AreEqual(PythonValue.Apply("%", value, other), BigInteger.Zero)),
        ["sameas"] = Of(static (value, other) => PythonValue.TypeName(value) == PythonValue.TypeName(other) && PythonValue.AreEqual(value, other)),
        ["in"] = Of(static (value, other) => PythonValue.Contains(other, value)),
        ["filter"] = Of(static value => JinjaFilters.All.ContainsKey(PythonValue.Str(value).Text)),
        ["test"] = Of(static value => All!.ContainsKey(PythonValue.Str(value).Text)),
        ["escaped"] = Of(static _ => false),
    }
    .Concat(Comparing(static (value, other) => PythonValue.AreEqual(value, other), "==", "eq", "equalto"))
    .Concat(Comparing(static (value, other) => !PythonValue.AreEqual(value, other), "!=", "ne"))
    .Concat(Comparing(static (value, other) => PythonValue.Compare(value, other, "<") < 0, "<", "lt", "lessthan"))
    .Concat(Comparing(static (value, other) => PythonValue.Compare(value, other, "<=") <= 0, "<=", "le"))
    .Concat(Comparing(static (value, other) => PythonValue.Compare(value, other, ">") > 0, ">", "gt", "greaterthan"))
    .Concat(Comparing(static (value, other) => PythonValue.Compare(value, other, ">=") >= 0, ">=", "ge"))
    .ToFrozenDictionary(StringComparer.Ordinal);

    private static JinjaFunction Of(Func<object?, bool> test) => (_, arguments) => test(arguments.Bind("value")[0]);

    private static JinjaFunction Of(Func<object?, object?, bool> test) => (_, arguments) =>
    {
        var bound = arguments.Bind("value", "other");
        return test(bound[0], bound[1]);
    };

    private static IEnumerable<KeyValuePair<string, JinjaFunction>> Comparing(Func<object?, object?, bool> test, params string[] names) => names.Select(name => KeyValuePair.Create(name, Of(test)));
}
