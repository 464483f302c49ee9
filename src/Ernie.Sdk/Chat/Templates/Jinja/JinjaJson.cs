using System.Globalization;
using System.Numerics;
using System.Text;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>Python's <c>json.dumps</c> as the filter <c>tojson</c> of chat templates calls it.</summary>
internal sealed class JinjaJson(bool ensureAscii, string? indent, PromptText itemSeparator, PromptText keySeparator, bool sortKeys)
{
    private readonly PromptTextBuilder _json = new();

    public PromptText Write(object? value)
    {
        Append(value, 0);
        return _json.Build();
    }

    private void Append(object? value, int depth)
    {
        JinjaLimits.Descend();
        JinjaLimits.CheckLength(_json.Length);
        switch (value)
        {
            case JinjaDict dict:
                var items = sortKeys ? dict.Items.OrderBy(static item => item.Key, Comparer<object?>.Create(static (a, b) => PythonValue.Compare(a, b, "<"))) : dict.Items;
                AppendAll("{", "}", dict.Count, items, (item, inner) =>
                {
                    AppendText(Key(item.Key));
                    _json.Append(keySeparator);
                    Append(item.Value, inner);
                }, depth);
                break;
            case JinjaList list:
                AppendAll("[", "]", list.Items.Count, list.Items, Append, depth);
                break;
            case PromptText text:
                AppendText(text);
                break;
            default:
                _json.Append(Scalar(value) ?? throw new JinjaException($"a {PythonValue.TypeName(value)} cannot be written as JSON{(value is Undefined undefined ? ": " + undefined.Reason : "")}"));
                break;
        }
    }

    private void AppendAll<T>(string open, string close, int count, IEnumerable<T> items, Action<T, int> append, int depth)
    {
        _json.Append(open);
        var isFirst = true;
        foreach (var item in items)
        {
            if (!isFirst) _json.Append(itemSeparator);
            isFirst = false;
            AppendLine(depth + 1);
            append(item, depth + 1);
        }
        if (count > 0) AppendLine(depth);
        _json.Append(close);
    }

    private void AppendLine(int depth)
    {
        if (indent is null) return;
        JinjaLimits.CheckLength(_json.Length + (long)indent.Length * depth);
        _json.Append("\n");
        for (var i = 0; i < depth; i++) _json.Append(indent);
    }

    private void AppendText(PromptText text)
    {
        _json.Append("\"").Append(text.Map(piece =>
        {
            var escaped = new StringBuilder(piece.Length);
            PythonJson.AppendEscaped(escaped, piece, ensureAscii);
            return escaped.ToString();
        })).Append("\"");
    }

    private static PromptText Key(object? key) => key is PromptText text ? text : Scalar(key) ?? throw new JinjaException($"a {PythonValue.TypeName(key)} cannot be a key in JSON");

    private static string? Scalar(object? value) => value switch
    {
        null => "null",
        bool flag => flag ? "true" : "false",
        BigInteger number => number.ToString(CultureInfo.InvariantCulture),
        double number => PythonJson.Number(number),
        _ => null,
    };
}
