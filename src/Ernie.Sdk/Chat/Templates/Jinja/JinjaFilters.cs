using System.Collections.Frozen;
using System.Globalization;
using System.Net;
using System.Numerics;
using System.Text;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>What may follow <c>|</c>. The first argument is the filtered value.</summary>
internal static partial class JinjaFilters
{
    public static FrozenDictionary<string, JinjaFunction> All { get; } = new Dictionary<string, JinjaFunction>
    {
        ["tojson"] = static (_, a) => ToJson(a.Bind("value", "ensure_ascii", "indent", "separators", "sort_keys")),
        ["trim"] = static (_, a) => Trim(a.Bind("value", "chars")),
        ["length"] = static (_, a) => (BigInteger)PythonValue.Length(a.Bind("value")[0]),
        ["count"] = static (_, a) => (BigInteger)PythonValue.Length(a.Bind("value")[0]),
        ["string"] = static (_, a) => PythonValue.Str(a.Bind("value")[0]),
        ["safe"] = static (_, a) => a.Bind("value")[0],
        ["join"] = static (_, a) => Join(a.Bind("value", "d", "attribute")),
        ["default"] = Default,
        ["d"] = Default,
        ["upper"] = Mapping(PythonText.ToUpper),
        ["lower"] = Mapping(PythonText.ToLower),
        ["title"] = static (_, a) => Title(Text(a)),
        ["capitalize"] = static (_, a) => JinjaMethods.Capitalize(Text(a)),
        ["escape"] = static (_, a) => Escape(Text(a)),
        ["e"] = static (_, a) => Escape(Text(a)),
        ["forceescape"] = static (_, a) => Escape(Text(a)),
        ["first"] = static (_, a) => PythonValue.Items(a.Bind("value")[0]) is [var first, ..] ? first : new Undefined("the sequence of 'first' is empty"),
        ["last"] = static (_, a) => PythonValue.Items(a.Bind("value")[0]) is [.., var last] ? last : new Undefined("the sequence of 'last' is empty"),
        ["items"] = static (_, a) => new JinjaIterator(a.Bind("value")[0] switch
        {
            JinjaDict dict => JinjaMethods.Pairs(dict),
            Undefined => [],
            var other => throw new JinjaException($"'items' needs a dict, not a {PythonValue.TypeName(other)}"),
        }),
        ["list"] = static (_, a) => new JinjaList([.. PythonValue.Items(a.Bind("value")[0])]),
        ["map"] = static (interpreter, a) => Map(interpreter, a),
        ["select"] = static (interpreter, a) => Select(interpreter, a, byAttribute: false, keep: true),
        ["reject"] = static (interpreter, a) => Select(interpreter, a, byAttribute: false, keep: false),
        ["selectattr"] = static (interpreter, a) => Select(interpreter, a, byAttribute: true, keep: true),
        ["rejectattr"] = static (interpreter, a) => Select(interpreter, a, byAttribute: true, keep: false),
        ["replace"] = static (_, a) => Replace(a),
        ["int"] = static (_, a) => ToInteger(a.Bind("value", "default", "base")),
        ["float"] = static (_, a) => ToFloat(a.Bind("value", "default")),
        ["format"] = static (_, a) => Format(a),
        ["dictsort"] = static (_, a) => DictSort(a.Bind("value", "case_sensitive", "by", "reverse")),
        ["unique"] = static (_, a) => Unique(a.Bind("value", "case_sensitive", "attribute")),
        ["sort"] = static (_, a) => Sort(a.Bind("value", "reverse", "case_sensitive", "attribute")),
        ["reverse"] = static (_, a) => Reverse(a.Bind("value")[0]),
        ["abs"] = static (_, a) => Absolute(a.Bind("value")[0]),
        ["round"] = static (_, a) => Round(a.Bind("value", "precision", "method")),
        ["sum"] = static (_, a) => Sum(a.Bind("value", "attribute", "start")),
        ["min"] = static (_, a) => Extreme(a.Bind("value", "case_sensitive", "attribute"), -1),
        ["max"] = static (_, a) => Extreme(a.Bind("value", "case_sensitive", "attribute"), 1),
        ["batch"] = static (_, a) => Batch(a.Bind("value", "linecount", "fill_with")),
        ["slice"] = static (_, a) => Slice(a.Bind("value", "slices", "fill_with")),
        ["groupby"] = static (_, a) => GroupBy(a.Bind("value", "attribute", "default", "case_sensitive")),
        ["indent"] = static (_, a) => Indent(a.Bind("value", "width", "first", "blank")),
        ["truncate"] = static (_, a) => Truncate(a.Bind("value", "length", "killwords", "end", "leeway")),
        ["wordcount"] = static (_, a) => (BigInteger)Word().Count(Text(a).Text),
        ["attr"] = static (_, a) => AttributeOnly(a.Bind("value", "name")),
        ["center"] = static (_, a) => JinjaMethods.Center(a.Bind("value", "width", "fillchar")),
        ["urlencode"] = static (_, a) => UrlEncode(a.Bind("value")[0]),
        ["striptags"] = static (_, a) => StripTags(Text(a)),
        ["pprint"] = static (_, a) => PrettyPrint(a.Bind("value")[0]),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    private static PromptText Text(JinjaArguments arguments) => PythonValue.Str(arguments.Bind("value")[0]);

    private static JinjaFunction Mapping(Func<string, string> map) => (_, arguments) => Text(arguments).Map(map);

    private static object? Default(JinjaInterpreter interpreter, JinjaArguments arguments)
    {
        var a = arguments.Bind("value", "default_value", "boolean");
        return a[0] is Undefined || (a.Flag(2, false) && !PythonValue.IsTrue(a[0])) ? a.Or(1, default(PromptText)) : a[0];
    }

    private static PromptText Escape(PromptText text) => text.Map(static text => text.Replace("&", "&amp;", StringComparison.Ordinal)
        .Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal).Replace("'", "&#39;", StringComparison.Ordinal).Replace("\"", "&#34;", StringComparison.Ordinal));

    private static PromptText ToJson(BoundArguments a)
    {
        var indent = a.Or(2, null) switch { null => null, PromptText text => text.Text, _ => new string(' ', Math.Clamp(a.Integer(2), 0, 100)) };
        PromptText itemSeparator = indent is null ? ", " : ",", keySeparator = ": ";
        if (a.Or(3, null) is { } separators)
        {
            if (PythonValue.Items(separators) is not [PromptText item, PromptText key]) throw new JinjaException("the separators of 'tojson' must be two strings");
            (itemSeparator, keySeparator) = (item, key);
        }
        return new JinjaJson(a.Flag(1, false), indent, itemSeparator, keySeparator, a.Flag(4, false)).Write(a[0]);
    }

    private static PromptText Trim(BoundArguments a) => JinjaMethods.Strip(PythonValue.Str(a[0]), a.Or(1, null) is null ? null : a.Text(1).Text, left: true, right: true);

    private static PromptText Join(BoundArguments a)
    {
        var separator = PythonValue.Str(a.Or(1, default(PromptText)));
        var items = Attributes(PythonValue.Items(a[0]), a.Or(2, null));
        var joined = new PromptTextBuilder();
        for (var i = 0; i < items.Count; i++)
        {
            if (i > 0) joined.Append(separator);
            joined.Append(PythonValue.Str(items[i]));
            JinjaLimits.CheckLength(joined.Length);
        }
        return joined.Build();
    }

    /// <summary>Jinja's title: every part after a space, hyphen or opening bracket is capitalised.</summary>
    private static PromptText Title(PromptText text)
    {
        var atStart = true;
        return text.Map(piece =>
        {
            var title = new StringBuilder(piece.Length);
            foreach (var rune in piece.EnumerateRunes())
            {
                title.Append(atStart ? PythonText.ToUpper(rune.ToString()) : PythonText.ToLower(rune.ToString()));
                atStart = rune.IsBmp && (rune.Value is '-' or '(' or '{' or '[' or '<' || PythonText.IsSpace((char)rune.Value));
            }
            return title.ToString();
        });
    }

    /// <summary>Jinja's attribute arguments: names and indexes joined by points.</summary>
    private static object? AttributeOf(object? item, object? path)
    {
        if (path is BigInteger) return JinjaInterpreter.Item(item, path);
        foreach (var part in PythonValue.Str(path).Text.Split('.'))
        {
            item = JinjaInterpreter.Item(item, BigInteger.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out var index) ? index : (PromptText)part);
        }
        return item;
    }

    private static IReadOnlyList<object?> Attributes(IReadOnlyList<object?> items, object? path) => path is null ? items : [.. items.Select(item => AttributeOf(item, path))];

    private static JinjaIterator Map(JinjaInterpreter interpreter, JinjaArguments arguments)
    {
        var items = PythonValue.Items(arguments.Positional[0]);
        if (arguments.Positional.Count == 1 && arguments.Named.TryGetValue("attribute", out var attribute))
        {
            var a = new JinjaArguments("map", arguments.Positional, arguments.Named).Bind("value", "attribute", "default");
            return new JinjaIterator([.. items.Select(item => AttributeOf(item, attribute) is var value && value is Undefined && a.Has(2) ? a[2] : value)]);
        }
        var (filter, rest) = Function(arguments, 1, All, "filter");
        return new JinjaIterator([.. items.Select(item => filter(interpreter, new JinjaArguments("map", [item, .. rest], arguments.Named)))]);
    }

    private static JinjaIterator Select(JinjaInterpreter interpreter, JinjaArguments arguments, bool byAttribute, bool keep)
    {
        var items = PythonValue.Items(arguments.Positional[0]);
        var first = byAttribute ? 2 : 1;
        if (arguments.Positional.Count < first) throw new JinjaException($"'{arguments.Function}' needs an attribute");
        object? Of(object? item) => byAttribute ? AttributeOf(item, arguments.Positional[1]) : item;
        if (arguments.Positional.Count == first) return new JinjaIterator([.. items.Where(item => PythonValue.IsTrue(Of(item)) == keep)]);
        var (test, rest) = Function(arguments, first, JinjaTests.All, "test");
        return new JinjaIterator([.. items.Where(item => PythonValue.IsTrue(test(interpreter, new JinjaArguments("is", [Of(item), .. rest], arguments.Named))) == keep)]);
    }

    private static (JinjaFunction Function, IEnumerable<object?> Others) Function(JinjaArguments arguments, int index, FrozenDictionary<string, JinjaFunction> all, string kind)
    {
        if (arguments.Positional.Count <= index) throw new JinjaException($"'{arguments.Function}' needs the name of a {kind}");
        var name = PythonValue.Str(arguments.Positional[index]).Text;
        return all.TryGetValue(name, out var function) ? (function, arguments.Positional.Skip(index + 1)) : throw JinjaException.Unsupported($"the {kind} '{name}'");
    }

    private static PromptText Replace(JinjaArguments arguments)
    {
        var a = arguments.Bind("value", "old", "new", "count");
        List<object?> values = [PythonValue.Str(a[0]), PythonValue.Str(a[1]), PythonValue.Str(a[2]), a.Or(3, null)];
        return JinjaMethods.Replace(new JinjaArguments("replace", values).Bind("value", "old", "new", "count"));
    }

    private static object? ToInteger(BoundArguments a)
    {
        var otherwise = a.Or(1, BigInteger.Zero);
        if (a.Has(2) && a.Integer(2) != 10) throw JinjaException.Unsupported("a base of 'int' other than 10");
        switch (PythonValue.Defined(a[0]))
        {
            case bool or BigInteger: return PythonValue.Integer(a[0]);
            case double number: return double.IsFinite(number) ? (BigInteger)Math.Truncate(number) : otherwise;
            case PromptText text:
                var digits = text.Text.Trim();
                if (digits.Length <= 1000 && BigInteger.TryParse(digits, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var integer)) return integer;
                return double.TryParse(digits, NumberStyles.Float, CultureInfo.InvariantCulture, out var parsed) && double.IsFinite(parsed) ? (BigInteger)Math.Truncate(parsed) : otherwise;
            default: return otherwise;
        }
    }

    private static object? ToFloat(BoundArguments a) => PythonValue.Defined(a[0]) switch
    {
        bool or BigInteger or double => PythonValue.Float(a[0]),
        PromptText text when double.TryParse(text.Text.Trim(), NumberStyles.Float, CultureInfo.InvariantCulture, out var parsed) => parsed,
        _ => a.Or(1, 0.0),
    };

    private static PromptText Format(JinjaArguments arguments)
    {
        if (arguments.Named.Count > 0 && arguments.Positional.Count > 1) throw new JinjaException("'format' takes values by position or by name, not both");
        var format = PythonValue.Str(arguments.Positional[0]);
        if (arguments.Named.Count == 0) return PythonFormat.Percent(format, new JinjaList([.. arguments.Positional.Skip(1)], isTuple: true));
        var dict = new JinjaDict();
        foreach (var (name, value) in arguments.Named) dict[(PromptText)name] = value;
        return PythonFormat.Percent(format, dict);
    }

    /// <summary>What sorting compares: strings without regard to case, unless that is asked for.</summary>
    private static object? SortKey(object? value, bool isCaseSensitive) => !isCaseSensitive && value is PromptText text ? (PromptText)PythonText.ToLower(text.Text) : value;

    private static List<object?> Sorted(IEnumerable<object?> items, Func<object?, object?> key, bool reverse)
    {
        var comparer = Comparer<object?>.Create(static (a, b) => PythonValue.Compare(a, b, "<"));
        try
        {
            return reverse ? [.. items.OrderByDescending(key, comparer)] : [.. items.OrderBy(key, comparer)];
        }
        catch (InvalidOperationException e) when (e.InnerException is JinjaException inner)
        {
            // Sorting wraps what its comparer throws.
            throw inner;
        }
    }

    private static JinjaList DictSort(BoundArguments a)
    {
        if (a[0] is not JinjaDict dict) throw new JinjaException($"'dictsort' needs a dict, not a {PythonValue.TypeName(a[0])}");
        var index = a.Text(2, "key").Text switch { "key" => 0, "value" => 1, var other => throw new JinjaException($"'dictsort' sorts by key or value, not by '{other}'") };
        return new JinjaList(Sorted(JinjaMethods.Pairs(dict), pair => SortKey(((JinjaList)pair!).Items[index], a.Flag(1, false)), a.Flag(3, false)));
    }

    private static JinjaList Sort(BoundArguments a)
    {
        var path = a.Or(3, null);
        var names = path is PromptText text && text.Text.Contains(',', StringComparison.Ordinal) ? text.Text.Split(',') : null;
        object? Key(object? item) => names is not null ? JinjaList.Tuple([.. names.Select(name => SortKey(AttributeOf(item, (PromptText)name), a.Flag(2, false)))]) : SortKey(path is null ? item : AttributeOf(item, path), a.Flag(2, false));
        return new JinjaList(Sorted(PythonValue.Items(a[0]), Key, a.Flag(1, false)));
    }

    private static JinjaIterator Unique(BoundArguments a)
    {
        var seen = new JinjaDict();
        var unique = new List<object?>();
        foreach (var item in PythonValue.Items(a[0]))
        {
            var key = SortKey(a.Or(2, null) is { } path ? AttributeOf(item, path) : item, a.Flag(1, false));
            if (seen.TryGet(key, out _)) continue;
            seen[key] = null;
            unique.Add(item);
        }
        return new JinjaIterator(unique);
    }

    private static object? Reverse(object? value)
    {
        if (value is PromptText) return PythonValue.Slice(value, null, null, BigInteger.MinusOne);
        return new JinjaIterator([.. PythonValue.Items(value).Reverse()]);
    }

    private static object Absolute(object? value) => PythonValue.Defined(value) switch
    {
        double number => Math.Abs(number),
        bool or BigInteger => BigInteger.Abs(PythonValue.Integer(value)),
        _ => throw new JinjaException($"'abs' needs a number, not a {PythonValue.TypeName(value)}"),
    };

    private static double Round(BoundArguments a)
    {
        if (!PythonValue.IsNumber(PythonValue.Defined(a[0]))) throw new JinjaException($"'round' needs a number, not a {PythonValue.TypeName(a[0])}");
        var (value, precision) = (PythonValue.Float(a[0]), Math.Clamp(a.Integer(1, 0), 0, 300));
        var scale = Math.Pow(10, precision);
        return a.Text(2, "common").Text switch
        {
            "common" => double.IsFinite(value) ? double.Parse(PythonFormat.Fixed(value, precision), CultureInfo.InvariantCulture) : value,
            "ceil" => Math.Ceiling(value * scale) / scale,
            "floor" => Math.Floor(value * scale) / scale,
            var other => throw new JinjaException($"'round' knows common, ceil and floor, not '{other}'"),
        };
    }

    private static object? Sum(BoundArguments a) =>
        Attributes(PythonValue.Items(a[0]), a.Or(1, null)).Aggregate(a.Or(2, BigInteger.Zero), static (sum, value) => PythonValue.Apply("+", sum, value));

    private static object? Extreme(BoundArguments a, int sign)
    {
        var items = PythonValue.Items(a[0]);
        if (items.Count == 0) return new Undefined("the sequence is empty");
        object? Key(object? item) => SortKey(a.Or(2, null) is { } path ? AttributeOf(item, path) : item, a.Flag(1, false));
        return items.Aggregate((best, item) => PythonValue.Compare(Key(item), Key(best), "<") * sign > 0 ? item : best);
    }

    private static JinjaIterator Batch(BoundArguments a)
    {
        var count = a.Integer(1);
        if (count < 1) throw new JinjaException("a batch needs at least one item");
        JinjaLimits.CheckLength(count);
        var batches = PythonValue.Items(a[0]).Chunk(count).Select(static batch => (object?)new JinjaList([.. batch])).ToList();
        if (a.Or(2, null) is { } fill && batches is [.., JinjaList last])
        {
            JinjaLimits.Step(count - last.Items.Count);
            while (last.Items.Count < count) last.Items.Add(fill);
        }
        return new JinjaIterator(batches);
    }

    private static JinjaIterator Slice(BoundArguments a)
    {
        var items = PythonValue.Items(a[0]);
        var count = a.Integer(1);
        if (count < 1) throw new JinjaException("'slice' needs at least one slice");
        JinjaLimits.Step(count);
        var slices = new List<object?>();
        var start = 0;
        for (var i = 0; i < count; i++)
        {
            var length = items.Count / count + (i < items.Count % count ? 1 : 0);
            var slice = items.Skip(start).Take(length).ToList();
            if (a.Or(2, null) is { } fill && i >= items.Count % count) slice.Add(fill);
            slices.Add(new JinjaList(slice));
            start += length;
        }
        return new JinjaIterator(slices);
    }

    private static JinjaList GroupBy(BoundArguments a)
    {
        object? Of(object? item) => AttributeOf(item, a[1]) is var value && value is Undefined && a.Has(2) ? a[2] : value;
        object? Key(object? item) => SortKey(Of(item), a.Flag(3, false));
        var groups = new List<object?>();
        JinjaList? current = null;
        object? currentKey = null;
        foreach (var item in Sorted(PythonValue.Items(a[0]), Key, reverse: false))
        {
            var key = Key(item);
            if (current is null || !PythonValue.AreEqual(key, currentKey))
            {
                (current, currentKey) = (new JinjaList([]), key);
                groups.Add(JinjaList.Tuple(Of(item), current));
            }
            current.Items.Add(item);
        }
        return new JinjaList(groups);
    }

    private static PromptText Indent(BoundArguments a)
    {
        var width = a.Or(1, (BigInteger)4) is PromptText text ? text : new string(' ', Math.Clamp(a.Integer(1, 4), 0, 1000));
        var (first, blank) = (a.Flag(2, false), a.Flag(3, false));
        // One line end more keeps an empty last line.
        var lines = JinjaMethods.Lines(new PromptTextBuilder().Append(PythonValue.Str(a[0])).Append("\n").Build());
        var indented = new PromptTextBuilder();
        for (var i = 0; i < lines.Count; i++)
        {
            var line = (PromptText)lines[i]!;
            if (i > 0) indented.Append("\n");
            if (i == 0 ? first : blank || line.Length > 0) indented.Append(width);
            indented.Append(line);
            JinjaLimits.CheckLength(indented.Length);
        }
        return indented.Build();
    }

    private static PromptText Truncate(BoundArguments a)
    {
        var text = PythonValue.Str(a[0]);
        var (length, end, leeway) = (a.Integer(1, 255), a.Text(3, "..."), a.Integer(4, 5));
        if (length < PythonText.CountCodePoints(end.Text) || leeway < 0) throw new JinjaException("'truncate' needs a length of at least its end's, and no negative leeway");
        if (PythonText.CountCodePoints(text.Text) <= (long)length + leeway) return text;
        var kept = (PromptText)PythonValue.Slice(text, null, (BigInteger)(length - PythonText.CountCodePoints(end.Text)), null)!;
        if (!a.Flag(2, false) && kept.Text.LastIndexOf(' ') is var space and >= 0) kept = kept.Slice(0, space);
        return new PromptTextBuilder().Append(kept).Append(end).Build();
    }

    private static object? AttributeOnly(BoundArguments a)
    {
        // Attributes of Python's objects, not items: of what templates handle, namespaces and loops have any.
        var name = a.Text(1).Text;
        return a[0] is JinjaNamespace or JinjaLoop ? JinjaInterpreter.Attribute(a[0], name) : JinjaMethods.Find(PythonValue.Defined(a[0]), name) ?? new Undefined($"a {PythonValue.TypeName(a[0])} has no attribute '{name}'");
    }

    private static PromptText UrlEncode(object? value)
    {
        if (value is JinjaDict or JinjaList) throw JinjaException.Unsupported("'urlencode' of anything but a string");
        return PythonValue.Str(value).Map(static text => Uri.EscapeDataString(text).Replace("%2F", "/", StringComparison.Ordinal));
    }

    private static PromptText StripTags(PromptText text)
    {
        var stripped = new StringBuilder(text.Length);
        for (var at = 0; at < text.Length;)
        {
            var open = text.Text.IndexOf('<', at);
            var close = open < 0 ? "" : string.CompareOrdinal(text.Text, open, "<!--", 0, 4) == 0 ? "-->" : ">";
            var end = open < 0 ? -1 : text.Text.IndexOf(close, open, StringComparison.Ordinal);
            stripped.Append(text.Text, at, (end < 0 ? text.Length : open) - at);
            at = end < 0 ? text.Length : end + close.Length;
        }
        return text.Derived(WebUtility.HtmlDecode(string.Join(' ', stripped.ToString().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))));
    }

    private static PromptText PrettyPrint(object? value)
    {
        var text = PythonValue.Repr(value);
        return text.Length <= 80 ? text : throw JinjaException.Unsupported("'pprint' of more than one line");
    }

    [GeneratedRegex(@"\w+")]
    private static partial Regex Word();
}
