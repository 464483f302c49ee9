using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Rules of JSON as models write it: at most a space, or a line break with an indentation, after <c>{ [ : ,</c> and before <c>} ]</c>. Numbers are those that .NET's types
/// hold: integers lie in the range of <see cref="int"/>; others have 15 digits before and after the point and, with an exponent, no more than <see cref="decimal"/> and <see cref="float"/> can read.
/// </summary>
internal sealed class JsonRules
{
    public const int NumberDigits = 15;

    private const int MaximumIndentation = 20;
    private const int LastBasicRune = 0xFFFF;

    private readonly GrammarNetwork _network;
    private GrammarRule? _value;
    private GrammarRule? _object;
    private GrammarRule? _array;
    private GrammarRule? _number;

    /// <param name="network">Gets the rules.</param>
    /// <param name="escapesTags">Whether <c>&lt;</c> in strings is written as <c>\u003c</c>, so that no text is taken for a tag of the model's output.</param>
    public JsonRules(GrammarNetwork network, bool escapesTags)
    {
        (_network, EscapesTags) = (network, escapesTags);
        String = NewString();
        Space = network.NewRule(maximum: MaximumIndentation);
        network.States[Space.Start].IsExit = true;
        var indentation = network.NewState(Space, isExit: true);
        network.Byte(Space.Start, ' ', network.NewState(Space, isExit: true));
        network.Byte(Space.Start, '\n', indentation);
        network.Byte(indentation, ' ', indentation, EdgeFlags.Counts);
    }

    public bool EscapesTags { get; }
    public GrammarRule Space { get; }
    public GrammarRule String { get; }
    public GrammarRule Value => _value ?? AddValue();
    public GrammarRule Object => _object ?? AddObject();
    public GrammarRule Array => _array ?? AddArray();
    public GrammarRule Number => _number ?? AddNumber();

    /// <summary>Characters that stand in a string as they are, as ranges; a quote, a backslash and control characters do not.</summary>
    public IEnumerable<(int Low, int High)> PlainRunes => EscapesTags ? [(0x20, 0x21), (0x23, 0x3B), (0x3D, 0x5B), (0x5D, 0x10FFFF)] : [(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)];

    /// <summary>A string of any characters, so many of them. A single one is a <see cref="char"/> to .NET.</summary>
    public GrammarRule NewString(int minimum = 0, int maximum = int.MaxValue)
    {
        var isChar = maximum == 1;
        var rule = _network.NewRule(isText: true, isPlainString: !isChar, escapesTags: EscapesTags, minimum: minimum, maximum: maximum);
        var inside = _network.NewState(rule);
        _network.Byte(rule.Start, '"', inside);
        foreach (var (low, high) in PlainRunes) _network.Runes(inside, low, isChar ? Math.Min(high, LastBasicRune) : high, inside, EdgeFlags.Counts);
        var escape = _network.NewState(rule);
        _network.Byte(inside, '\\', escape, EdgeFlags.Counts);
        foreach (var c in "\"\\/bfnrt") _network.Byte(escape, c, inside);
        // Four hexadecimal digits, but no surrogate: halves of pairs could be left alone.
        var (unicode, inD, second, third, fourth) = (_network.NewState(rule), _network.NewState(rule), _network.NewState(rule), _network.NewState(rule), _network.NewState(rule));
        _network.Byte(escape, 'u', unicode);
        foreach (var (low, high) in new[] { ('0', '9'), ('a', 'c'), ('e', 'f'), ('A', 'C'), ('E', 'F') }) _network.Bytes(unicode, (byte)low, (byte)high, second);
        foreach (var c in "dD") _network.Byte(unicode, c, inD);
        _network.Bytes(inD, (byte)'0', (byte)'7', third);
        foreach (var (from, to) in new[] { (second, third), (third, fourth), (fourth, inside) })
        {
            foreach (var (low, high) in new[] { ('0', '9'), ('a', 'f'), ('A', 'F') }) _network.Bytes(from, (byte)low, (byte)high, to);
        }
        _network.Byte(inside, '"', _network.NewState(rule, isExit: true), EdgeFlags.NeedsMinimum);
        return rule;
    }

    /// <summary>A value in its one spelling, which takes as much of the depth as it has.</summary>
    public void Constant(int from, JsonElement value, int to)
    {
        for (var depth = DepthOf(value); depth > 0; depth--)
        {
            var rule = _network.NewRule(nests: true);
            var end = _network.NewState(rule, isExit: true);
            _network.Call(from, rule, to);
            (from, to) = (rule.Start, end);
        }
        _network.Literal(from, Spell(value), to);
    }

    private static int DepthOf(JsonElement value, int outer = 0)
    {
        if (outer > GrammarAutomaton.MaximumNesting) throw new NotSupportedException($"JSON schema: a value of 'enum' or 'const' has more than {GrammarAutomaton.MaximumNesting} objects and arrays in one another.");
        return value.ValueKind switch
        {
            JsonValueKind.Array => 1 + value.EnumerateArray().Select(item => DepthOf(item, outer + 1)).DefaultIfEmpty().Max(),
            JsonValueKind.Object => 1 + value.EnumerateObject().Select(property => DepthOf(property.Value, outer + 1)).DefaultIfEmpty().Max(),
            _ => 0,
        };
    }

    /// <summary>A value as its one spelling.</summary>
    private byte[] Spell(JsonElement value)
    {
        var text = new StringBuilder();
        Spell(value, text);
        return Encoding.UTF8.GetBytes(text.ToString());
    }

    public byte[] Spell(string text)
    {
        var spelled = new StringBuilder();
        Spell(text, spelled);
        return Encoding.UTF8.GetBytes(spelled.ToString());
    }

    private void Spell(JsonElement value, StringBuilder text)
    {
        var separator = "";
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                text.Append('{');
                foreach (var property in value.EnumerateObject())
                {
                    text.Append(separator);
                    Spell(property.Name, text);
                    text.Append(':');
                    Spell(property.Value, text);
                    separator = ",";
                }
                text.Append('}');
                break;
            case JsonValueKind.Array:
                text.Append('[');
                foreach (var item in value.EnumerateArray())
                {
                    text.Append(separator);
                    Spell(item, text);
                    separator = ",";
                }
                text.Append(']');
                break;
            case JsonValueKind.String:
                Spell(value.GetString()!, text);
                break;
            default:
                text.Append(value.GetRawText());
                break;
        }
    }

    private void Spell(string value, StringBuilder text)
    {
        text.Append('"');
        foreach (var c in value)
        {
            if (c is '"' or '\\') text.Append('\\').Append(c);
            else if (c < ' ' || (c == '<' && EscapesTags)) text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
            else text.Append(c);
        }
        text.Append('"');
    }

    private GrammarRule AddValue()
    {
        _value = _network.NewRule();
        var end = _network.NewState(_value, isExit: true);
        foreach (var rule in new[] { String, Number, Object, Array }) _network.Call(_value.Start, rule, end);
        foreach (var word in new[] { "true", "false", "null" }) _network.Literal(_value.Start, Encoding.ASCII.GetBytes(word), end);
        return _value;
    }

    private GrammarRule AddObject()
    {
        _object = _network.NewRule(nests: true);
        var states = Enumerable.Range(0, 9).Select(_ => _network.NewState(_object)).ToArray();
        var end = _network.NewState(_object, isExit: true);
        _network.Byte(_object.Start, '{', states[0]);
        _network.Call(states[0], Space, states[1]);
        _network.Byte(states[1], '}', end);
        _network.Call(states[1], String, states[2]);
        _network.Byte(states[2], ':', states[3]);
        _network.Call(states[3], Space, states[4]);
        _network.Call(states[4], Value, states[5]);
        _network.Byte(states[5], ',', states[6]);
        _network.Call(states[6], Space, states[7]);
        _network.Call(states[7], String, states[2]);
        _network.Call(states[5], Space, states[8]);
        _network.Byte(states[8], '}', end);
        return _object;
    }

    private GrammarRule AddArray()
    {
        _array = _network.NewRule(nests: true);
        var states = Enumerable.Range(0, 6).Select(_ => _network.NewState(_array)).ToArray();
        var end = _network.NewState(_array, isExit: true);
        _network.Byte(_array.Start, '[', states[0]);
        _network.Call(states[0], Space, states[1]);
        _network.Byte(states[1], ']', end);
        _network.Call(states[1], Value, states[2]);
        _network.Byte(states[2], ',', states[3]);
        _network.Call(states[3], Space, states[4]);
        _network.Call(states[4], Value, states[2]);
        _network.Call(states[2], Space, states[5]);
        _network.Byte(states[5], ']', end);
        return _array;
    }

    private GrammarRule AddNumber()
    {
        _number = _network.NewRule();
        var negative = _network.NewState(_number);
        _network.Byte(_number.Start, '-', negative);
        // With more than one digit before the point a number is larger already.
        var (small, large) = (Exponent(isSmall: true), Exponent(isSmall: false));
        var (zero, one) = (_network.NewState(_number, isExit: true), _network.NewState(_number, isExit: true));
        GoOn(zero, small);
        GoOn(one, small);
        var fraction = Fraction(large);
        _network.Bytes(one, (byte)'0', (byte)'9', Digits(_number, NumberDigits - 2, state => GoOn(state, large, fraction)));
        foreach (var start in new[] { _number.Start, negative })
        {
            _network.Byte(start, '0', zero);
            _network.Bytes(start, (byte)'1', (byte)'9', one);
        }
        return _number;

        void GoOn(int state, int exponent, int? fraction = null)
        {
            _network.Byte(state, '.', fraction ?? Fraction(exponent));
            foreach (var c in "eE") _network.Byte(state, c, exponent);
        }

        int Fraction(int exponent)
        {
            var point = _network.NewState(_number!);
            _network.Bytes(point, (byte)'0', (byte)'9', Digits(_number!, NumberDigits - 1, state =>
            {
                foreach (var c in "eE") _network.Byte(state, c, exponent);
            }));
            return point;
        }
    }

    /// <summary>What follows an <c>e</c>: up to 27 after one digit, which leaves less than a decimal's largest number, and up to 9 after 15; below zero up to 99.</summary>
    private int Exponent(bool isSmall)
    {
        var (begin, plus, minus, end) = (_network.NewState(_number!), _network.NewState(_number!), _network.NewState(_number!), _network.NewState(_number!, isExit: true));
        _network.Byte(begin, '+', plus);
        _network.Byte(begin, '-', minus);
        _network.Bytes(minus, (byte)'0', (byte)'9', Digits(_number!, 1, static _ => { }));
        foreach (var start in new[] { begin, plus })
        {
            var (zero, one, two) = (_network.NewState(_number!, isExit: true), _network.NewState(_number!, isExit: true), _network.NewState(_number!, isExit: true));
            _network.Byte(start, '0', zero);
            _network.Bytes(zero, (byte)'0', (byte)'9', end);
            _network.Byte(start, '1', one);
            _network.Byte(start, '2', two);
            _network.Bytes(start, (byte)'3', (byte)'9', end);
            if (!isSmall) continue;
            _network.Bytes(one, (byte)'0', (byte)'9', end);
            _network.Bytes(two, (byte)'0', (byte)'7', end);
        }
        return begin;
    }

    /// <summary>The first of states that up to so many digits lead through, each of which may be the last.</summary>
    public int Digits(GrammarRule rule, int most, Action<int> goOn)
    {
        var next = -1;
        for (var i = 0; i <= most; i++)
        {
            var state = _network.NewState(rule, isExit: true);
            goOn(state);
            if (next >= 0) _network.Bytes(state, (byte)'0', (byte)'9', next);
            next = state;
        }
        return next;
    }
}
