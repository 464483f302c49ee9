using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>JSON text as Python's <c>json.dumps(value, ensure_ascii=False)</c> prints it, which is what the models were trained on.</summary>
internal static class PythonJson
{
    public static string Serialize(JsonElement value)
    {
        var text = new StringBuilder();
        Append(text, value);
        return text.ToString();
    }

    public static string Serialize(string value)
    {
        var text = new StringBuilder(value.Length + 2);
        AppendString(text, value);
        return text.ToString();
    }

    /// <summary>A JSON number: integers digit by digit; with a point or an exponent, Python's repr of the double.</summary>
    public static string Number(string json)
    {
        if (json.AsSpan().ContainsAny('.', 'e', 'E')) return Number(double.Parse(json, NumberStyles.Float, CultureInfo.InvariantCulture));
        return json == "-0" ? "0" : json;
    }

    /// <summary>Python's repr of a double: shortest digits that round-trip, exponent form below 1e-4 and from 1e16.</summary>
    public static string Number(double value)
    {
        if (double.IsNaN(value)) return "NaN";
        if (double.IsInfinity(value)) return value > 0 ? "Infinity" : "-Infinity";
        if (value == 0) return double.IsNegative(value) ? "-0.0" : "0.0";

        // .NET finds the same digits, but sets point and exponent elsewhere.
        var text = Math.Abs(value).ToString("R", CultureInfo.InvariantCulture);
        var sign = value < 0 ? "-" : "";
        var e = text.IndexOf('E', StringComparison.Ordinal);
        var mantissa = e < 0 ? text : text[..e];
        var point = mantissa.IndexOf('.', StringComparison.Ordinal);
        var exponent = (e < 0 ? 0 : int.Parse(text.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture)) + (point < 0 ? mantissa.Length : point);
        var all = mantissa.Replace(".", "", StringComparison.Ordinal);
        var digits = all.TrimStart('0');
        exponent -= all.Length - digits.Length;
        digits = digits.TrimEnd('0');

        // value = 0.digits × 10^exponent
        if (exponent is > -4 and <= 0) return $"{sign}0.{new string('0', -exponent)}{digits}";
        if (exponent is > 0 and <= 16)
        {
            return digits.Length <= exponent
                ? $"{sign}{digits.PadRight(exponent, '0')}.0"
                : $"{sign}{digits[..exponent]}.{digits[exponent..]}";
        }
        var fraction = digits.Length > 1 ? "." + digits[1..] : "";
        var power = exponent - 1;
        return $"{sign}{digits[0]}{fraction}e{(power < 0 ? '-' : '+')}{Math.Abs(power).ToString("00", CultureInfo.InvariantCulture)}";
    }

    /// <summary>A JSON string's text. JsonElement refuses an escaped half of a surrogate pair, which Python keeps.</summary>
    public static string TextOf(JsonElement value) => Unescape(JsonMarshal.GetRawUtf8Value(value)[1..^1]);

    /// <summary>A property's name, read as <see cref="TextOf"/> reads.</summary>
    public static string NameOf(JsonProperty property) => Unescape(JsonMarshal.GetRawUtf8PropertyName(property));

    /// <summary>Writes what stands between the quotes of a JSON string.</summary>
    public static void AppendEscaped(StringBuilder text, ReadOnlySpan<char> value, bool ensureAscii = false)
    {
        foreach (var c in value)
        {
            switch (c)
            {
                case '"': text.Append("\\\""); break;
                case '\\': text.Append("\\\\"); break;
                case '\n': text.Append("\\n"); break;
                case '\r': text.Append("\\r"); break;
                case '\t': text.Append("\\t"); break;
                case '\b': text.Append("\\b"); break;
                case '\f': text.Append("\\f"); break;
                case < ' ' or >= '\x7f' when c < ' ' || ensureAscii: text.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture)); break;
                default: text.Append(c); break;
            }
        }
    }

    private static void AppendString(StringBuilder text, string value)
    {
        text.Append('"');
        AppendEscaped(text, value);
        text.Append('"');
    }

    private static void Append(StringBuilder text, JsonElement value)
    {
        RuntimeHelpers.EnsureSufficientExecutionStack();
        switch (value.ValueKind)
        {
            case JsonValueKind.Object: AppendObject(text, value); break;
            case JsonValueKind.Array:
                text.Append('[');
                var first = true;
                foreach (var item in value.EnumerateArray())
                {
                    if (!first) text.Append(", ");
                    first = false;
                    Append(text, item);
                }
                text.Append(']');
                break;
            case JsonValueKind.String: AppendString(text, TextOf(value)); break;
            case JsonValueKind.Number: text.Append(Number(value.GetRawText())); break;
            case JsonValueKind.True: text.Append("true"); break;
            case JsonValueKind.False: text.Append("false"); break;
            case JsonValueKind.Null: text.Append("null"); break;
            default: throw new ArgumentException("The JSON value is undefined.", nameof(value));
        }
    }

    /// <summary>A repeated key keeps its first place and its last value.</summary>
    private static void AppendObject(StringBuilder text, JsonElement value)
    {
        var order = new List<string>();
        var members = new Dictionary<string, JsonElement>(StringComparer.Ordinal);
        foreach (var property in value.EnumerateObject())
        {
            var name = NameOf(property);
            if (!members.ContainsKey(name)) order.Add(name);
            members[name] = property.Value;
        }

        text.Append('{');
        for (var i = 0; i < order.Count; i++)
        {
            if (i > 0) text.Append(", ");
            AppendString(text, order[i]);
            text.Append(": ");
            Append(text, members[order[i]]);
        }
        text.Append('}');
    }

    private static string Unescape(ReadOnlySpan<byte> raw)
    {
        var escaped = Encoding.UTF8.GetString(raw);
        if (!escaped.Contains('\\', StringComparison.Ordinal)) return escaped;
        var text = new StringBuilder(escaped.Length);
        for (var i = 0; i < escaped.Length; i++)
        {
            if (escaped[i] != '\\')
            {
                text.Append(escaped[i]);
                continue;
            }
            switch (escaped[++i])
            {
                case 'n': text.Append('\n'); break;
                case 'r': text.Append('\r'); break;
                case 't': text.Append('\t'); break;
                case 'b': text.Append('\b'); break;
                case 'f': text.Append('\f'); break;
                case 'u':
                    text.Append((char)int.Parse(escaped.AsSpan(i + 1, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture));
                    i += 4;
                    break;
                default: text.Append(escaped[i]); break;
            }
        }
        return text.ToString();
    }
}
