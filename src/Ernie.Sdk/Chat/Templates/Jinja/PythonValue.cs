using System.Globalization;
using System.Numerics;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>What Python's operators and built-in functions do with the values of templates.</summary>
internal static class PythonValue
{
    /// <summary>A JSON value. Its texts count as input, keys included.</summary>
    public static object? FromJson(JsonElement json, bool isInput = true)
    {
        JinjaLimits.Descend();
        switch (json.ValueKind)
        {
            case JsonValueKind.Object:
                var dict = new JinjaDict();
                foreach (var property in json.EnumerateObject()) dict[Text(PythonJson.NameOf(property))] = FromJson(property.Value, isInput);
                return dict;
            case JsonValueKind.Array: return new JinjaList([.. json.EnumerateArray().Select(item => FromJson(item, isInput))]);
            case JsonValueKind.String: return Text(PythonJson.TextOf(json));
            case JsonValueKind.Number:
                var number = json.GetRawText();
                return number.AsSpan().ContainsAny('.', 'e', 'E') ? double.Parse(number, NumberStyles.Float, CultureInfo.InvariantCulture) : BigInteger.Parse(number, CultureInfo.InvariantCulture);
            case JsonValueKind.True: return true;
            case JsonValueKind.False: return false;
            default: return null;
        }

        PromptText Text(string text) => isInput ? PromptText.Input(text) : text;
    }

    public static string TypeName(object? value) => value switch
    {
        null => "NoneType",
        bool => "bool",
        BigInteger => "int",
        double => "float",
        PromptText => "str",
        JinjaList list => list.IsTuple ? "tuple" : "list",
        JinjaDict => "dict",
        Undefined => "Undefined",
        JinjaIterator => "generator",
        JinjaRange => "range",
        JinjaView view => view.Name,
        JinjaNamespace => "namespace",
        JinjaMacro => "macro",
        JinjaLoop => "loop",
        _ => "function",
    };

    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined => false,
        bool flag => flag,
        BigInteger number => !number.IsZero,
        double number => number != 0,
        PromptText text => text.Length > 0,
        JinjaList list => list.Items.Count > 0,
        JinjaDict dict => dict.Count > 0,
        JinjaRange range => range.Count > 0,
        JinjaView view => view.Items.Count > 0,
        _ => true,
    };

    public static bool IsNumber(object? value) => value is bool or BigInteger or double;

    public static BigInteger Integer(object? value) => value is bool flag ? (flag ? 1 : 0) : (BigInteger)value!;

    public static double Float(object? value) => value is double number ? number : (double)Integer(value);

    /// <summary>An undefined value is refused wherever something is computed with it.</summary>
    public static object? Defined(object? value) => value is Undefined undefined ? throw new JinjaException(undefined.Reason) : value;

    public static bool AreEqual(object? left, object? right)
    {
        JinjaLimits.Descend();
        if (IsNumber(left) && IsNumber(right)) return left is double || right is double ? Float(left) == Float(right) : Integer(left) == Integer(right);
        return (left, right) switch
        {
            (null, null) or (Undefined, Undefined) => true,
            (PromptText a, PromptText b) => SameText(a.Text, b.Text),
            (JinjaList a, JinjaList b) => a.IsTuple == b.IsTuple && a.Items.Count == b.Items.Count && a.Items.Zip(b.Items).All(static pair => AreEqual(pair.First, pair.Second)),
            (JinjaDict a, JinjaDict b) => a.Count == b.Count && a.Items.All(pair => b.TryGet(pair.Key, out var other) && AreEqual(pair.Value, other)),
            (JinjaRange a, JinjaRange b) => a == b,
            _ => ReferenceEquals(left, right),
        };
    }

    private static bool SameText(string left, string right)
    {
        if (left.Length != right.Length) return false;
        JinjaLimits.Read(left.Length);
        return left == right;
    }

    public static int Hash(object? value) => value switch
    {
        null => 0,
        bool or BigInteger or double => Float(value).GetHashCode(),
        PromptText text => text.Text.GetHashCode(StringComparison.Ordinal),
        JinjaList list => list.Items.Aggregate(list.Items.Count, static (hash, item) => HashCode.Combine(hash, Hash(item))),
        Undefined => 1,
        _ => value.GetHashCode(),
    };

    public static int Compare(object? left, object? right, string op)
    {
        JinjaLimits.Descend();
        Defined(left);
        Defined(right);
        if (IsNumber(left) && IsNumber(right)) return left is double || right is double ? Float(left).CompareTo(Float(right)) : Integer(left).CompareTo(Integer(right));
        if (left is PromptText a && right is PromptText b) return PythonText.Compare(a.Text, b.Text);
        if (left is JinjaList x && right is JinjaList y && x.IsTuple == y.IsTuple)
        {
            foreach (var (first, second) in x.Items.Zip(y.Items))
            {
                if (!AreEqual(first, second)) return Compare(first, second, op);
            }
            return x.Items.Count.CompareTo(y.Items.Count);
        }
        throw new JinjaException($"'{op}' is not supported between a {TypeName(left)} and a {TypeName(right)}");
    }

    /// <summary>Python's <c>str()</c>.</summary>
    public static PromptText Str(object? value) => value switch
    {
        PromptText text => text,
        Undefined => default,
        _ => Repr(value),
    };

    public static PromptText Repr(object? value)
    {
        if (value is PromptText text) return PythonText.Repr(text);
        var printed = new PromptTextBuilder();
        AppendRepr(printed, value);
        return printed.Build();
    }

    /// <summary>The items of something that a loop can go through.</summary>
    public static IReadOnlyList<object?> Items(object? value)
    {
        var items = Uncounted(value);
        JinjaLimits.Step(items.Count);
        return items;
    }

    private static IReadOnlyList<object?> Uncounted(object? value) => value switch
    {
        JinjaList list => list.Items,
        JinjaIterator iterator => iterator.Items,
        JinjaView view => view.Items,
        JinjaDict dict => [.. dict.Keys],
        JinjaRange range => [.. Enumerable.Range(0, range.Count).Select(i => (object?)range[i])],
        PromptText text => Characters(text),
        Undefined => [],
        _ => throw new JinjaException($"a {TypeName(value)} cannot be iterated"),
    };

    public static int Length(object? value) => value switch
    {
        PromptText text => PythonText.CountCodePoints(text.Text),
        JinjaList list => list.Items.Count,
        JinjaDict dict => dict.Count,
        JinjaView view => view.Items.Count,
        JinjaRange range => range.Count,
        Undefined => 0,
        _ => throw new JinjaException($"a {TypeName(value)} has no length"),
    };

    public static bool Contains(object? container, object? item)
    {
        switch (container)
        {
            case PromptText text:
                return item is PromptText part ? text.Text.Contains(part.Text, StringComparison.Ordinal) : throw new JinjaException($"'in' a string needs a string, not a {TypeName(item)}");
            case JinjaDict dict: return dict.TryGet(item, out _);
            default: return Items(container).Any(other => AreEqual(other, item));
        }
    }

    public static object? Apply(string op, object? left, object? right)
    {
        Defined(left);
        Defined(right);
        if (IsNumber(left) && IsNumber(right)) return Calculate(op, left, right);
        switch (op, left, right)
        {
            case ("+", PromptText a, PromptText b):
                JinjaLimits.CheckLength((long)a.Length + b.Length);
                return new PromptTextBuilder().Append(a).Append(b).Build();
            case ("+", JinjaList a, JinjaList b) when a.IsTuple == b.IsTuple:
                JinjaLimits.CheckLength((long)a.Items.Count + b.Items.Count);
                return new JinjaList([.. a.Items, .. b.Items], a.IsTuple);
            case ("*", PromptText or JinjaList, bool or BigInteger): return Repeat(left, Integer(right));
            case ("*", bool or BigInteger, PromptText or JinjaList): return Repeat(right, Integer(left));
            case ("%", PromptText format, _): return PythonFormat.Percent(format, right);
            default: throw new JinjaException($"'{op}' is not supported between a {TypeName(left)} and a {TypeName(right)}");
        }
    }

    /// <summary>Python's slice of a string, list, tuple or range.</summary>
    public static object? Slice(object? value, object? start, object? stop, object? step)
    {
        Defined(value);
        var by = Index(step) ?? 1;
        if (by == 0) throw new JinjaException("the step of a slice cannot be 0");
        if (value is PromptText text)
        {
            if (!PythonText.HasSurrogates(text.Text)) return Pick(text.Length, static i => i);
            var offsets = PythonText.Offsets(text.Text);
            return Pick(offsets.Length - 1, i => offsets[i]);

            object? Pick(int length, Func<int, int> offset)
            {
                var (first, last) = Bounds(length, start, stop, by);
                if (by == 1) return first < last ? text.Slice(offset(first), offset(last)) : default(PromptText);
                var picked = new PromptTextBuilder();
                for (var i = first; by > 0 ? i < last : i > last; i += by) picked.Append(text, offset(i), offset(i + 1));
                return picked.Build();
            }
        }
        if (value is JinjaList or JinjaRange)
        {
            var items = Items(value);
            var (first, last) = Bounds(items.Count, start, stop, by);
            var picked = new List<object?>();
            for (var i = first; by > 0 ? i < last : i > last; i += by) picked.Add(items[i]);
            return new JinjaList(picked, value is JinjaList { IsTuple: true });
        }
        throw new JinjaException($"a {TypeName(value)} cannot be sliced");
    }

    public static PromptText CharacterAt(PromptText text, int index)
    {
        if (!PythonText.HasSurrogates(text.Text)) return text.Slice(index, index + 1);
        var offsets = PythonText.Offsets(text.Text);
        return text.Slice(offsets[index], offsets[index + 1]);
    }

    private static object?[] Characters(PromptText text)
    {
        var offsets = PythonText.Offsets(text.Text);
        var characters = new object?[offsets.Length - 1];
        for (var i = 0; i < characters.Length; i++) characters[i] = text.Slice(offsets[i], offsets[i + 1]);
        return characters;
    }

    private static (int First, int Last) Bounds(int length, object? start, object? stop, int step)
    {
        var (low, high) = step > 0 ? (0, length) : (-1, length - 1);
        int Limit(int? index, int otherwise) => index is not { } i ? otherwise : Math.Clamp(i < 0 ? i + length : i, low, high);
        return (Limit(Index(start), step > 0 ? low : high), Limit(Index(stop), step > 0 ? high : low));
    }

    private static int? Index(object? value) => value switch
    {
        null => null,
        bool or BigInteger => (int)BigInteger.Max(-JinjaLimits.MaximumLength, BigInteger.Min(JinjaLimits.MaximumLength, Integer(value))),
        _ => throw new JinjaException($"a slice needs whole numbers, not a {TypeName(value)}"),
    };

    private static object? Repeat(object? value, BigInteger times)
    {
        var count = (int)BigInteger.Max(0, BigInteger.Min(JinjaLimits.MaximumLength + 1, times));
        if (value is JinjaList list)
        {
            JinjaLimits.CheckLength((long)list.Items.Count * count);
            return new JinjaList([.. Enumerable.Repeat(list.Items, count).SelectMany(static items => items)], list.IsTuple);
        }
        var text = (PromptText)value!;
        JinjaLimits.CheckLength((long)text.Length * count);
        var repeated = new PromptTextBuilder();
        if (text.Length > 0)
        {
            for (var i = 0; i < count; i++) repeated.Append(text);
        }
        return repeated.Build();
    }

    private static object? Calculate(string op, object? left, object? right)
    {
        if (op is "/" or "//" or "%" && Float(right) == 0) throw new JinjaException("division by zero");
        if (left is double || right is double || op == "/")
        {
            var (a, b) = (Float(left), Float(right));
            return op switch
            {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "/" => a / b,
                "//" => Math.Floor(a / b),
                "%" => Modulo(a, b),
                _ => a == 0 && b < 0 ? throw new JinjaException("0 cannot be raised to a negative power") : Math.Pow(a, b),
            };
        }
        var (x, y) = (Integer(left), Integer(right));
        switch (op)
        {
            case "+": return x + y;
            case "-": return x - y;
            case "*": return Bounded(x.GetBitLength() + y.GetBitLength(), () => x * y);
            case "//": return (x - Modulo(x, y)) / y;
            case "%": return Modulo(x, y);
            default:
                if (y.Sign < 0) return Calculate(op, (double)x, (double)y);
                return Bounded((double)x.GetBitLength() * (double)y, () => BigInteger.Pow(x, (int)y));
        }
    }

    private static BigInteger Modulo(BigInteger value, BigInteger divisor)
    {
        var rest = BigInteger.Remainder(value, divisor);
        return rest.IsZero || rest.Sign == divisor.Sign ? rest : rest + divisor;
    }

    private static double Modulo(double value, double divisor)
    {
        var rest = value % divisor;
        return rest != 0 && rest < 0 != divisor < 0 ? rest + divisor : rest;
    }

    private static BigInteger Bounded(double bits, Func<BigInteger> compute) =>
        bits <= JinjaLimits.MaximumIntegerBits ? compute() : throw new JinjaException($"a number has more than {JinjaLimits.MaximumIntegerBits} bits");

    private static void AppendRepr(PromptTextBuilder printed, object? value)
    {
        JinjaLimits.Descend();
        JinjaLimits.CheckLength(printed.Length);
        switch (value)
        {
            case null: printed.Append("None"); break;
            case bool flag: printed.Append(flag ? "True" : "False"); break;
            case BigInteger number: printed.Append(number.ToString(CultureInfo.InvariantCulture)); break;
            case double number: printed.Append(FloatText(number)); break;
            case PromptText text: printed.Append(PythonText.Repr(text)); break;
            case Undefined: printed.Append("Undefined"); break;
            case JinjaRange range: printed.Append(range.Step == 1 ? $"range({range.Start}, {range.Stop})" : $"range({range.Start}, {range.Stop}, {range.Step})"); break;
            case JinjaView view:
                printed.Append(view.Name + "(");
                AppendItems(printed, view.Items, "[", "]");
                printed.Append(")");
                break;
            case JinjaList { IsTuple: true, Items.Count: 1 } one: AppendItems(printed, one.Items, "(", ",)"); break;
            case JinjaList list: AppendItems(printed, list.Items, list.IsTuple ? "(" : "[", list.IsTuple ? ")" : "]"); break;
            case JinjaDict dict:
                printed.Append("{");
                var first = true;
                foreach (var (key, item) in dict.Items)
                {
                    if (!first) printed.Append(", ");
                    first = false;
                    AppendRepr(printed, key);
                    printed.Append(": ");
                    AppendRepr(printed, item);
                }
                printed.Append("}");
                break;
            default: throw new JinjaException($"a {TypeName(value)} cannot be printed");
        }
    }

    private static void AppendItems(PromptTextBuilder printed, IReadOnlyList<object?> items, string open, string close)
    {
        printed.Append(open);
        for (var i = 0; i < items.Count; i++)
        {
            if (i > 0) printed.Append(", ");
            AppendRepr(printed, items[i]);
        }
        printed.Append(close);
    }

    public static string FloatText(double value) => double.IsNaN(value) ? "nan" : double.IsInfinity(value) ? (value > 0 ? "inf" : "-inf") : PythonJson.Number(value);
}
