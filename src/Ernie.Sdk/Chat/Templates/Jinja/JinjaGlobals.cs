using System.Collections.Frozen;
using System.Globalization;
using System.Numerics;
using System.Text;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>The functions that templates find without being given them.</summary>
internal static class JinjaGlobals
{
    public static FrozenDictionary<string, JinjaFunction> All { get; } = new Dictionary<string, JinjaFunction>
    {
        ["range"] = static (_, arguments) => Range(arguments),
        ["dict"] = static (_, arguments) => Dict(arguments),
        ["namespace"] = static (_, arguments) => Namespace(arguments),
        ["raise_exception"] = static (_, arguments) => throw new JinjaException(PythonValue.Str(arguments.Bind("message")[0]).Text),
        ["strftime_now"] = static (_, arguments) =>
        {
            var format = arguments.Bind("format").Text(0);
            return format.Derived(Format(DateTime.Now, format.Text));
        },
        ["cycler"] = static (_, arguments) => Cycler(arguments),
        ["joiner"] = static (_, arguments) => Joiner(arguments),
    }.ToFrozenDictionary(StringComparer.Ordinal);

    public static void Set(JinjaNamespace space, string name, object? value)
    {
        if (name.StartsWith('_')) throw new JinjaException($"the attribute '{name}' of a namespace begins with an underscore; rename it");
        space.Attributes[name] = value;
    }

    private static JinjaRange Range(JinjaArguments arguments)
    {
        if (arguments.Positional.Count == 0) throw new JinjaException("'range' needs an argument");
        var one = arguments.Positional.Count == 1;
        var bound = arguments.Bind(one ? ["stop"] : ["start", "stop", "step"]);
        var range = one ? new JinjaRange(0, bound.Integer(0), 1) : new JinjaRange(bound.Integer(0), bound.Integer(1), bound.Integer(2, 1));
        if (range.Step == 0) throw new JinjaException("the step of a range cannot be 0");
        var count = (range.Step > 0 ? (long)range.Stop - range.Start : (long)range.Start - range.Stop) / Math.Abs((long)range.Step);
        if (count > JinjaLimits.MaximumRange) throw new JinjaException($"a range has {count} elements; the limit is {JinjaLimits.MaximumRange}");
        // Empty ranges need no large numbers, and small ones have none.
        return Math.Max(Math.Abs((long)range.Start), Math.Abs((long)range.Stop)) + Math.Abs((long)range.Step) > int.MaxValue ? throw new JinjaException("a range begins or ends at too large a number") : range;
    }

    private static JinjaDict Dict(JinjaArguments arguments)
    {
        if (arguments.Positional.Count > 1) throw new JinjaException("'dict' takes one argument besides names");
        var dict = new JinjaDict();
        if (arguments.Positional is [JinjaDict other])
        {
            foreach (var (key, value) in other.Items) dict[key] = value;
        }
        else if (arguments.Positional is [var pairs])
        {
            foreach (var pair in PythonValue.Items(pairs))
            {
                if (PythonValue.Items(pair) is not [var key, var value]) throw new JinjaException("'dict' needs pairs");
                dict[key] = value;
            }
        }
        // Names may come from a dictionary of the caller's: "dict(**message)".
        foreach (var (name, value) in arguments.Named) dict[PromptText.Input(name)] = value;
        return dict;
    }

    private static JinjaNamespace Namespace(JinjaArguments arguments)
    {
        var space = new JinjaNamespace();
        foreach (var (name, value) in Dict(arguments).Items) Set(space, PythonValue.Str(name).Text, value);
        return space;
    }

    private static JinjaNamespace Cycler(JinjaArguments arguments)
    {
        if (arguments.Positional.Count == 0) throw new JinjaException("'cycler' needs an item");
        var at = 0;
        var cycler = new JinjaNamespace();
        cycler.Attributes["next"] = new JinjaCallable("next", (_, _) => arguments.Positional[at++ % arguments.Positional.Count]);
        cycler.Attributes["reset"] = new JinjaCallable("reset", (_, _) =>
        {
            at = 0;
            return null;
        });
        return cycler;
    }

    private static JinjaCallable Joiner(JinjaArguments arguments)
    {
        var separator = arguments.Bind("sep").Text(0, ", ");
        var isFirst = true;
        return new JinjaCallable("joiner", (_, _) =>
        {
            var text = isFirst ? default : separator;
            isFirst = false;
            return text;
        });
    }

    /// <summary>C's strftime, in English.</summary>
    private static string Format(DateTime time, string format)
    {
        var text = new StringBuilder();
        for (var i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }
            var flag = format[++i];
            text.Append(flag switch
            {
                'Y' => Number("0000", time.Year), 'm' => Number("00", time.Month), 'd' => Number("00", time.Day), 'H' => Number("00", time.Hour), 'M' => Number("00", time.Minute), 'S' => Number("00", time.Second),
                'y' => Number("00", time.Year % 100), 'j' => Number("000", time.DayOfYear), 'I' => Number("00", (time.Hour + 11) % 12 + 1), 'p' => time.Hour < 12 ? "AM" : "PM", 'e' => Number("0", time.Day).PadLeft(2),
                'B' => time.ToString("MMMM", CultureInfo.InvariantCulture), 'b' => time.ToString("MMM", CultureInfo.InvariantCulture), 'A' => time.ToString("dddd", CultureInfo.InvariantCulture), 'a' => time.ToString("ddd", CultureInfo.InvariantCulture),
                '%' => "%", _ => throw JinjaException.Unsupported($"'%{flag}' in a time format"),
            });
        }
        return text.ToString();

        static string Number(string digits, int value) => value.ToString(digits, CultureInfo.InvariantCulture);
    }
}
