using System.Collections.Frozen;
using System.Numerics;
using System.Text;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>The methods of strings, lists and dictionaries that a sandbox lets templates call: those that change nothing.</summary>
internal static class JinjaMethods
{
    private static readonly FrozenSet<string> s_changing = FrozenSet.ToFrozenSet(["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"], StringComparer.Ordinal);

    // The first argument is the value that the method belongs to.
    private static readonly FrozenDictionary<string, JinjaFunction> s_ofStrings = new Dictionary<string, JinjaFunction>
    {
        ["strip"] = static (_, a) => Strip(a, left: true, right: true),
        ["lstrip"] = static (_, a) => Strip(a, left: true, right: false),
        ["rstrip"] = static (_, a) => Strip(a, left: false, right: true),
        ["split"] = static (_, a) => Split(a, fromRight: false),
        ["rsplit"] = static (_, a) => Split(a, fromRight: true),
        ["splitlines"] = static (_, a) => Lines(a.Bind("self", "keepends")),
        ["partition"] = static (_, a) => Partition(a.Bind("self", "sep"), fromRight: false),
        ["rpartition"] = static (_, a) => Partition(a.Bind("self", "sep"), fromRight: true),
        ["replace"] = static (_, a) => Replace(a.Bind("self", "old", "new", "count")),
        ["startswith"] = static (_, a) => Affix(a.Bind("self", "prefix", "start", "end"), static (text, affix) => text.StartsWith(affix, StringComparison.Ordinal)),
        ["endswith"] = static (_, a) => Affix(a.Bind("self", "suffix", "start", "end"), static (text, affix) => text.EndsWith(affix, StringComparison.Ordinal)),
        ["upper"] = Mapping(PythonText.ToUpper),
        ["lower"] = Mapping(PythonText.ToLower),
        ["casefold"] = Mapping(static text => PythonText.ToLower(text).Replace("ß", "ss", StringComparison.Ordinal)),
        ["swapcase"] = Mapping(static text => string.Concat(text.Select(static c => char.IsUpper(c) ? PythonText.ToLower(c.ToString()) : PythonText.ToUpper(c.ToString())))),
        ["title"] = static (_, a) => Title(a.Bind("self").Text(0)),
        ["capitalize"] = static (_, a) => Capitalize(a.Bind("self").Text(0)),
        ["find"] = static (_, a) => Find(a, fromRight: false, -1),
        ["rfind"] = static (_, a) => Find(a, fromRight: true, -1),
        ["index"] = static (_, a) => Find(a, fromRight: false, null),
        ["rindex"] = static (_, a) => Find(a, fromRight: true, null),
        ["count"] = static (_, a) => Count(a.Bind("self", "sub")),
        ["join"] = static (_, a) => Join(a.Bind("self", "iterable")),
        ["format"] = static (_, a) => PythonFormat.Format((PromptText)a.Positional[0]!, new JinjaArguments("format", [.. a.Positional.Skip(1)], a.Named)),
        ["isdigit"] = All(char.IsDigit),
        ["isdecimal"] = All(char.IsDigit),
        ["isnumeric"] = All(char.IsNumber),
        ["isalpha"] = All(char.IsLetter),
        ["isalnum"] = All(static c => char.IsLetter(c) || char.IsNumber(c)),
        ["isspace"] = All(PythonText.IsSpace),
        ["isupper"] = static (_, a) => HasCase(a.Bind("self").Text(0).Text, char.IsUpper, char.IsLower),
        ["islower"] = static (_, a) => HasCase(a.Bind("self").Text(0).Text, char.IsLower, char.IsUpper),
        ["zfill"] = static (_, a) => ZeroFill(a.Bind("self", "width")),
        ["ljust"] = static (_, a) => Justify(a.Bind("self", "width", "fillchar"), static _ => 0),
        ["rjust"] = static (_, a) => Justify(a.Bind("self", "width", "fillchar"), static missing => missing),
        ["center"] = static (_, a) => Center(a.Bind("self", "width", "fillchar")),
        ["removeprefix"] = static (_, a) => RemoveAffix(a.Bind("self", "prefix"), isPrefix: true),
        ["removesuffix"] = static (_, a) => RemoveAffix(a.Bind("self", "suffix"), isPrefix: false),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    private static readonly FrozenDictionary<string, JinjaFunction> s_ofLists = new Dictionary<string, JinjaFunction>
    {
        ["index"] = static (_, a) =>
        {
            var bound = a.Bind("self", "value");
            var items = PythonValue.Items(bound[0]);
            for (var i = 0; i < items.Count; i++)
            {
                if (PythonValue.AreEqual(items[i], bound[1])) return (BigInteger)i;
            }
            throw new JinjaException("the list does not hold the value of index()");
        },
        ["count"] = static (_, a) =>
        {
            var bound = a.Bind("self", "value");
            return (BigInteger)PythonValue.Items(bound[0]).Count(item => PythonValue.AreEqual(item, bound[1]));
        },
        ["copy"] = static (_, a) => a.Bind("self")[0],
    }.ToFrozenDictionary(StringComparer.Ordinal);

    private static readonly FrozenDictionary<string, JinjaFunction> s_ofDicts = new Dictionary<string, JinjaFunction>
    {
        ["get"] = static (_, a) =>
        {
            var bound = a.Bind("self", "key", "default");
            return ((JinjaDict)bound[0]!).TryGet(bound[1], out var value) ? value : bound.Or(2, null);
        },
        ["items"] = static (_, a) => new JinjaView("dict_items", Pairs((JinjaDict)a.Bind("self")[0]!)),
        ["keys"] = static (_, a) => new JinjaView("dict_keys", PythonValue.Items(a.Bind("self")[0])),
        ["values"] = static (_, a) => new JinjaView("dict_values", [.. ((JinjaDict)a.Bind("self")[0]!).Items.Select(static item => item.Value)]),
        ["copy"] = static (_, a) => a.Bind("self")[0],
    }.ToFrozenDictionary(StringComparer.Ordinal);

    /// <summary>A bound method, something that refuses to be called, or null where the value has no such method.</summary>
    public static object? Find(object? value, string name)
    {
        var methods = value switch { PromptText => s_ofStrings, JinjaList => s_ofLists, JinjaDict => s_ofDicts, _ => null };
        if (methods is null) return null;
        if (methods.TryGetValue(name, out var method))
        {
            // A list is changed by nothing here, so that the bound value stays what it is.
            return new JinjaCallable(name, (interpreter, arguments) => method(interpreter, new JinjaArguments(name, [value, .. arguments.Positional], arguments.Named)));
        }
        return value is not PromptText && s_changing.Contains(name) ? new Undefined($"the method '{name}' of a {PythonValue.TypeName(value)} changes it, which templates must not") : null;
    }

    public static IReadOnlyList<object?> Pairs(JinjaDict dict)
    {
        JinjaLimits.Step(dict.Count);
        return [.. dict.Items.Select(static item => JinjaList.Tuple(item.Key, item.Value))];
    }

    public static PromptText Strip(PromptText text, string? characters, bool left, bool right)
    {
        bool IsStripped(char c) => characters is null ? PythonText.IsSpace(c) : characters.Contains(c, StringComparison.Ordinal);
        var (start, end) = (0, text.Length);
        while (left && start < end && IsStripped(text.Text[start])) start++;
        while (right && end > start && IsStripped(text.Text[end - 1])) end--;
        return text.Slice(start, end);
    }

    public static PromptText Replace(BoundArguments a)
    {
        var (text, old, replacement) = (a.Text(0), a.Text(1), a.Text(2));
        var most = a.Or(3, null) is null ? int.MaxValue : a.Integer(3);
        if (most < 0) most = int.MaxValue;
        var result = new PromptTextBuilder();
        var at = 0;
        for (var count = 0; count < most; count++)
        {
            int next;
            if (old.Length > 0) next = text.Text.IndexOf(old.Text, at, StringComparison.Ordinal);
            else
            {
                // An empty text stands before each character and at the end.
                next = count == 0 ? 0 : at >= text.Length ? -1 : at + (at + 1 < text.Length && char.IsSurrogatePair(text.Text[at], text.Text[at + 1]) ? 2 : 1);
            }
            if (next < 0) break;
            JinjaLimits.Step();
            JinjaLimits.CheckLength((long)result.Length + replacement.Length);
            result.Append(text, at, next).Append(replacement);
            at = next + old.Length;
        }
        return result.Append(text, at, text.Length).Build();
    }

    /// <summary>Python's str.title: a letter after anything that is no letter is upper, every other lower.</summary>
    public static PromptText Title(PromptText text)
    {
        var afterLetter = false;
        return text.Map(piece =>
        {
            var title = new StringBuilder(piece.Length);
            foreach (var rune in piece.EnumerateRunes())
            {
                title.Append(afterLetter ? PythonText.ToLower(rune.ToString()) : PythonText.ToUpper(rune.ToString()));
                afterLetter = Rune.IsLetter(rune);
            }
            return title.ToString();
        });
    }

    public static PromptText Capitalize(PromptText text)
    {
        var isFirst = true;
        return text.Map(piece =>
        {
            var capitalized = isFirst ? PythonText.Capitalize(piece) : PythonText.ToLower(piece);
            isFirst = false;
            return capitalized;
        });
    }

    public static PromptText Center(BoundArguments a) => Justify(a, (missing, width) => missing / 2 + (missing & width & 1));

    public static bool HasCase(string text, Func<char, bool> wanted, Func<char, bool> other) => text.Any(wanted) && !text.Any(other);

    /// <summary>Python's splitlines, which knows more line ends than LF.</summary>
    public static List<object?> Lines(PromptText text, bool keepEnds = false)
    {
        var lines = new List<object?>();
        var start = 0;
        for (var i = 0; i < text.Length; i++)
        {
            if (text.Text[i] is not ('\n' or '\r' or '\v' or '\f' or '\x1c' or '\x1d' or '\x1e' or '\x85' or '\u2028' or '\u2029')) continue;
            var end = i;
            if (text.Text[i] == '\r' && i + 1 < text.Length && text.Text[i + 1] == '\n') i++;
            lines.Add(text.Slice(start, keepEnds ? i + 1 : end));
            start = i + 1;
        }
        if (start < text.Length) lines.Add(text.Slice(start, text.Length));
        JinjaLimits.Step(lines.Count);
        return lines;
    }

    private static JinjaList Lines(BoundArguments a) => new(Lines(a.Text(0), a.Flag(1, false)));

    private static JinjaFunction Mapping(Func<string, string> map) => (_, arguments) => arguments.Bind("self").Text(0).Map(map);

    private static JinjaFunction All(Func<char, bool> test) => (_, arguments) => arguments.Bind("self").Text(0).Text is { Length: > 0 } text && text.All(test);

    private static PromptText Strip(JinjaArguments arguments, bool left, bool right)
    {
        var a = arguments.Bind("self", "chars");
        return Strip(a.Text(0), a.Or(1, null) is null ? null : a.Text(1).Text, left, right);
    }

    private static JinjaList Split(JinjaArguments arguments, bool fromRight)
    {
        var a = arguments.Bind("self", "sep", "maxsplit");
        var text = a.Text(0);
        var most = a.Integer(2, -1);
        if (most < 0) most = int.MaxValue;
        var parts = new List<object?>();
        if (a.Or(1, null) is not null)
        {
            var separator = a.Text(1).Text;
            if (separator.Length == 0) throw new JinjaException("the separator of a split is empty");
            var (start, end) = (0, text.Length);
            while (parts.Count < most)
            {
                var at = fromRight ? text.Text.AsSpan(0, end).LastIndexOf(separator) : text.Text.IndexOf(separator, start, StringComparison.Ordinal);
                if (at < 0) break;
                parts.Add(fromRight ? text.Slice(at + separator.Length, end) : text.Slice(start, at));
                (start, end) = fromRight ? (0, at) : (at + separator.Length, end);
            }
            parts.Add(text.Slice(start, end));
        }
        else
        {
            var rest = Strip(text, null, left: true, right: true);
            var words = Words(rest.Text);
            var cut = fromRight ? Math.Max(0, words.Count - most) : Math.Min(words.Count, most);
            if (fromRight && cut > 0) parts.Add(Strip(text, null, left: false, right: true).Slice(0, text.Length - Strip(text, null, left: true, right: false).Length + words[cut - 1].End));
            foreach (var (start, end) in fromRight ? words[cut..] : words[..cut]) parts.Add(rest.Slice(start, end));
            if (!fromRight && cut < words.Count) parts.Add(rest.Slice(words[cut].Start, rest.Length));
            JinjaLimits.Step(parts.Count);
            return new JinjaList(parts);
        }
        JinjaLimits.Step(parts.Count);
        if (fromRight) parts.Reverse();
        return new JinjaList(parts);
    }

    private static List<(int Start, int End)> Words(string text)
    {
        var words = new List<(int, int)>();
        for (var i = 0; i < text.Length; i++)
        {
            var start = i;
            while (i < text.Length && !PythonText.IsSpace(text[i])) i++;
            if (i > start) words.Add((start, i));
        }
        return words;
    }

    private static JinjaList Partition(BoundArguments a, bool fromRight)
    {
        var (text, separator) = (a.Text(0), a.Text(1).Text);
        if (separator.Length == 0) throw new JinjaException("the separator of a partition is empty");
        var at = fromRight ? text.Text.LastIndexOf(separator, StringComparison.Ordinal) : text.Text.IndexOf(separator, StringComparison.Ordinal);
        if (at < 0) return fromRight ? JinjaList.Tuple(default(PromptText), default(PromptText), text) : JinjaList.Tuple(text, default(PromptText), default(PromptText));
        return JinjaList.Tuple(text.Slice(0, at), text.Slice(at, at + separator.Length), text.Slice(at + separator.Length, text.Length));
    }

    private static bool Affix(BoundArguments a, Func<string, string, bool> test)
    {
        var text = a.Text(0);
        if (a.Has(2)) text = (PromptText)PythonValue.Slice(text, a[2], a.Or(3, null), null)!;
        return a[1] is JinjaList { IsTuple: true } any ? any.Items.Any(affix => affix is PromptText one && test(text.Text, one.Text)) : test(text.Text, a.Text(1).Text);
    }

    private static object Find(JinjaArguments arguments, bool fromRight, int? missing)
    {
        var a = arguments.Bind("self", "sub");
        var (text, part) = (a.Text(0).Text, a.Text(1).Text);
        var at = fromRight ? text.LastIndexOf(part, StringComparison.Ordinal) : text.IndexOf(part, StringComparison.Ordinal);
        return (BigInteger)(at >= 0 ? PythonText.CountCodePoints(text[..at]) : missing ?? throw new JinjaException("the text does not hold what index() looks for"));
    }

    private static BigInteger Count(BoundArguments a)
    {
        var (text, part) = (a.Text(0).Text, a.Text(1).Text);
        if (part.Length == 0) return (BigInteger)(PythonText.CountCodePoints(text) + 1);
        var count = 0;
        for (var at = 0; (at = text.IndexOf(part, at, StringComparison.Ordinal)) >= 0; at += part.Length) count++;
        return (BigInteger)count;
    }

    private static PromptText Join(BoundArguments a)
    {
        var separator = a.Text(0);
        var items = PythonValue.Items(PythonValue.Defined(a[1]));
        var joined = new PromptTextBuilder();
        for (var i = 0; i < items.Count; i++)
        {
            if (items[i] is not PromptText text) throw new JinjaException($"join() needs strings, its item {i} is a {PythonValue.TypeName(items[i])}");
            if (i > 0) joined.Append(separator);
            joined.Append(text);
            JinjaLimits.CheckLength(joined.Length);
        }
        return joined.Build();
    }

    private static PromptText ZeroFill(BoundArguments a)
    {
        var text = a.Text(0);
        var width = a.Integer(1);
        JinjaLimits.CheckLength(width);
        var sign = text.Length > 0 && text.Text[0] is '+' or '-' ? 1 : 0;
        var zeros = new string('0', Math.Max(0, width - PythonText.CountCodePoints(text.Text)));
        return new PromptTextBuilder().Append(text, 0, sign).Append(zeros).Append(text, sign, text.Length).Build();
    }

    private static PromptText Justify(BoundArguments a, Func<int, int> before) => Justify(a, (missing, _) => before(missing));

    private static PromptText Justify(BoundArguments a, Func<int, int, int> before)
    {
        var text = PythonValue.Str(a[0]);
        var width = a.Integer(1, 80);
        JinjaLimits.CheckLength(width);
        var fill = a.Text(2, " ");
        if (PythonText.CountCodePoints(fill.Text) != 1) throw new JinjaException("the fill of a text must be one character");
        var missing = Math.Max(0, width - PythonText.CountCodePoints(text.Text));
        var first = before(missing, width);
        var justified = new PromptTextBuilder();
        for (var i = 0; i < first; i++) justified.Append(fill);
        justified.Append(text);
        for (var i = first; i < missing; i++) justified.Append(fill);
        return justified.Build();
    }

    private static PromptText RemoveAffix(BoundArguments a, bool isPrefix)
    {
        var (text, affix) = (a.Text(0), a.Text(1).Text);
        if (isPrefix) return text.Text.StartsWith(affix, StringComparison.Ordinal) ? text.Slice(affix.Length, text.Length) : text;
        return text.Text.EndsWith(affix, StringComparison.Ordinal) ? text.Slice(0, text.Length - affix.Length) : text;
    }
}
