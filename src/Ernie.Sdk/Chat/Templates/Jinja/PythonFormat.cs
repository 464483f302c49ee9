using System.Globalization;
using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>Python's <c>%</c> and <c>str.format</c>. No form makes characters of numbers, so texts cannot lose where they came from.</summary>
internal static class PythonFormat
{
    /// <param name="format">Text with fields such as <c>%s</c> and <c>%(name)05d</c>.</param>
    /// <param name="value">A tuple of values, a dictionary for named fields, or the only value.</param>
    public static PromptText Percent(PromptText format, object? value)
    {
        var text = format.Text;
        var values = value is JinjaList { IsTuple: true } tuple ? tuple.Items : [value];
        var used = 0;
        var result = new PromptTextBuilder();
        for (var i = 0; i < text.Length; i++)
        {
            var percent = text.IndexOf('%', i);
            result.Append(format, i, percent < 0 ? text.Length : percent);
            if (percent < 0) break;
            i = percent + 1;
            var field = default(object);
            var isNamed = false;
            if (At(i) == '(')
            {
                var close = text.IndexOf(')', i);
                if (close < 0) throw new JinjaException("a '%(' in a format is not closed");
                if (value is not JinjaDict dict) throw new JinjaException("a format with names needs a dict");
                if (!dict.TryGet((PromptText)text[(i + 1)..close], out field)) throw new JinjaException($"the format names '{text[(i + 1)..close]}', which is missing");
                isNamed = true;
                i = close + 1;
            }
            var spec = new FieldSpec { Align = '>' };
            for (; At(i) is '-' or '0' or '+' or ' ' or '#'; i++)
            {
                spec = At(i) switch { '-' => spec with { Align = '<' }, '0' => spec with { IsZeroPadded = true }, '#' => throw JinjaException.Unsupported("'#' in a format"), var sign => spec with { Sign = sign } };
            }
            spec = spec with { Width = ReadNumber(text, ref i) ?? 0 };
            if (At(i) == '.')
            {
                i++;
                spec = spec with { Precision = ReadNumber(text, ref i) ?? 0 };
            }
            var type = At(i);
            if (type == '%')
            {
                result.Append(format, i, i + 1);
                continue;
            }
            if (!isNamed) field = used < values.Count ? values[used++] : throw new JinjaException("a format has more fields than values");
            result.Append(type switch
            {
                's' => spec.Pad(spec.Cut(PythonValue.Str(field))),
                'r' => spec.Pad(spec.Cut(PythonValue.Repr(field))),
                'd' or 'i' or 'u' => spec.PadNumber(PythonValue.Defined(field) is double number ? Truncate(number) : Integer(field), 'd'),
                'x' or 'X' => spec.PadNumber(Integer(field), type),
                'f' or 'F' => spec.PadNumber(Float(field), 'f'),
                _ => throw JinjaException.Unsupported($"'%{type}' in a format"),
            });
            JinjaLimits.CheckLength(result.Length);
        }
        if (used < values.Count && value is not JinjaDict) throw new JinjaException("a format has fewer fields than values");
        return result.Build();

        char At(int index) => index < text.Length ? text[index] : '\0';
    }

    /// <param name="format">Text with fields such as <c>{}</c>, <c>{0.name}</c> and <c>{x:>8.2f}</c>.</param>
    /// <param name="arguments">The values; the format itself is not among them.</param>
    public static PromptText Format(PromptText format, JinjaArguments arguments)
    {
        var text = format.Text;
        var next = 0;
        var result = new PromptTextBuilder();
        for (var i = 0; i < text.Length; i++)
        {
            var brace = text.AsSpan(i).IndexOfAny('{', '}');
            result.Append(format, i, brace < 0 ? text.Length : i + brace);
            if (brace < 0) break;
            i += brace;
            if (i + 1 < text.Length && text[i + 1] == text[i])
            {
                result.Append(format, i, ++i);
                continue;
            }
            var close = text[i] == '{' ? text.IndexOf('}', i) : -1;
            if (close < 0) throw new JinjaException("a format has a single brace");
            var field = Field(text[(i + 1)..close]);
            // A format from a message chooses what fields are filled with.
            result.Append(format.HasInput ? PromptText.Input(field.Text) : field);
            JinjaLimits.CheckLength(result.Length);
            i = close;
        }
        return result.Build();

        PromptText Field(string field)
        {
            var colon = field.IndexOf(':', StringComparison.Ordinal);
            var (name, spec) = colon < 0 ? (field, "") : (field[..colon], field[(colon + 1)..]);
            if (spec.Contains('{', StringComparison.Ordinal)) throw JinjaException.Unsupported("a field within the field of a format");
            var conversion = name.IndexOf('!', StringComparison.Ordinal);
            var value = Look(conversion < 0 ? name : name[..conversion]);
            if (conversion >= 0) value = name[conversion..] switch { "!s" => PythonValue.Str(value), "!r" => PythonValue.Repr(value), var other => throw JinjaException.Unsupported($"'{other}' in a format") };
            return FieldSpec.Parse(spec).Apply(value);
        }

        object? Look(string path)
        {
            var end = path.AsSpan().IndexOfAny('.', '[');
            var first = end < 0 ? path : path[..end];
            object? value;
            if (first.Length == 0 || char.IsAsciiDigit(first[0]))
            {
                var index = first.Length == 0 ? next++ : int.TryParse(first, NumberStyles.None, CultureInfo.InvariantCulture, out var given) ? given : int.MaxValue;
                value = index < arguments.Positional.Count ? arguments.Positional[index] : throw new JinjaException($"the format's field {index} has no value");
            }
            else if (!arguments.Named.TryGetValue(first, out value)) throw new JinjaException($"the format names '{first}', which is missing");
            while (end >= 0 && end < path.Length)
            {
                if (path[end] == '[')
                {
                    var close = path.IndexOf(']', end);
                    if (close < 0) throw new JinjaException("a '[' in a format is not closed");
                    var key = path[(end + 1)..close];
                    value = JinjaInterpreter.Item(value, BigInteger.TryParse(key, NumberStyles.None, CultureInfo.InvariantCulture, out var index) ? index : (PromptText)key);
                    end = close + 1;
                }
                else
                {
                    var stop = path.AsSpan(end + 1).IndexOfAny('.', '[');
                    var until = stop < 0 ? path.Length : end + 1 + stop;
                    value = JinjaInterpreter.Attribute(value, path[(end + 1)..until]);
                    end = until;
                }
            }
            return value;
        }
    }

    /// <summary>Digits after the point as C prints them: the exact binary value, ties to even.</summary>
    public static string Fixed(double value, int digits)
    {
        if (!double.IsFinite(value)) return PythonValue.FloatText(value);
        var bits = BitConverter.DoubleToInt64Bits(value);
        var exponent = (int)((bits >> 52) & 0x7FF);
        var mantissa = (BigInteger)(bits & 0xFFFFFFFFFFFFF) + (exponent == 0 ? 0 : 1L << 52);
        var shift = Math.Max(exponent, 1) - 1075;
        var scaled = mantissa * BigInteger.Pow(10, digits);
        if (shift >= 0) scaled <<= shift;
        else
        {
            var rounded = scaled >> -shift;
            var rest = (scaled - (rounded << -shift)) * 2;
            var comparison = rest.CompareTo(BigInteger.One << -shift);
            scaled = comparison > 0 || (comparison == 0 && !rounded.IsEven) ? rounded + 1 : rounded;
        }
        var text = scaled.ToString(CultureInfo.InvariantCulture).PadLeft(digits + 1, '0');
        var sign = bits < 0 ? "-" : "";
        return digits == 0 ? sign + text : $"{sign}{text[..^digits]}.{text[^digits..]}";
    }

    private static BigInteger Truncate(double value) => double.IsFinite(value) ? (BigInteger)Math.Truncate(value) : throw new JinjaException("a number that is not finite cannot be a whole number");

    private static BigInteger Integer(object? value) => value is bool or BigInteger ? PythonValue.Integer(value) : throw new JinjaException($"a format needs a whole number, not a {PythonValue.TypeName(value)}");

    private static double Float(object? value) => PythonValue.IsNumber(value) ? PythonValue.Float(value) : throw new JinjaException($"a format needs a number, not a {PythonValue.TypeName(value)}");

    private static int? ReadNumber(string text, ref int at)
    {
        var start = at;
        while (at < text.Length && char.IsAsciiDigit(text[at])) at++;
        if (at == start) return null;
        // Longest sensible width; a precision of a double has no more digits.
        return int.TryParse(text.AsSpan(start, at - start), NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number <= 1000 ? number : throw new JinjaException("a width or precision in a format is larger than 1000");
    }

    /// <summary>How a field is laid out.</summary>
    private readonly record struct FieldSpec()
    {
        public string Fill { get; init; } = " ";
        public char Align { get; init; }
        public char Sign { get; init; } = '-';
        public bool IsZeroPadded { get; init; }
        public bool HasCommas { get; init; }
        public int Width { get; init; }
        public int? Precision { get; init; }
        private char Type { get; init; }

        public static FieldSpec Parse(string text)
        {
            var spec = new FieldSpec();
            var i = 0;
            if (text.Length > 1 && text[1] is '<' or '>' or '^' or '=')
            {
                spec = spec with { Fill = text[..1], Align = text[1] };
                i = 2;
            }
            else if (text.Length > 0 && text[0] is '<' or '>' or '^' or '=') spec = spec with { Align = text[i++] };
            if (i < text.Length && text[i] is '+' or '-' or ' ') spec = spec with { Sign = text[i++] };
            if (i < text.Length && text[i] == '0')
            {
                spec = spec with { IsZeroPadded = true };
                i++;
            }
            spec = spec with { Width = ReadNumber(text, ref i) ?? 0 };
            if (i < text.Length && text[i] == ',')
            {
                spec = spec with { HasCommas = true };
                i++;
            }
            if (i < text.Length && text[i] == '.')
            {
                i++;
                spec = spec with { Precision = ReadNumber(text, ref i) ?? throw new JinjaException("a format lacks its precision") };
            }
            if (i < text.Length) spec = spec with { Type = text[i++] };
            return i == text.Length ? spec : throw JinjaException.Unsupported($"the format '{text}'");
        }

        public PromptText Apply(object? value) => (Type, value) switch
        {
            ('\0' or 's', PromptText text) => Pad(Cut(text)),
            ('\0', BigInteger) or ('d', bool or BigInteger) => PadNumber(PythonValue.Integer(value), 'd'),
            ('x' or 'X', bool or BigInteger) => PadNumber(PythonValue.Integer(value), Type),
            ('f' or 'F', bool or BigInteger or double) => PadNumber(PythonValue.Float(value), 'f'),
            ('\0', double number) when Precision is null => PadNumber(number, '\0'),
            ('\0', _) => Pad(PythonValue.Str(value)),
            _ => throw JinjaException.Unsupported($"the format '{Type}' of a {PythonValue.TypeName(value)}"),
        };

        public PromptText Cut(PromptText text) => Precision is { } most ? (PromptText)PythonValue.Slice(text, null, (BigInteger)most, null)! : text;

        public PromptText PadNumber(BigInteger number, char type)
        {
            var magnitude = BigInteger.Abs(number);
            var digits = type switch
            {
                'd' => magnitude.ToString(HasCommas ? "N0" : "D", CultureInfo.InvariantCulture),
                _ => magnitude.ToString(type == 'x' ? "x" : "X", CultureInfo.InvariantCulture).TrimStart('0').PadLeft(1, '0'),
            };
            return PadDigits(number.Sign < 0, digits);
        }

        public PromptText PadNumber(double number, char type)
        {
            var digits = type == 'f' ? Fixed(Math.Abs(number), Precision ?? 6) : PythonValue.FloatText(Math.Abs(number));
            if (HasCommas)
            {
                var point = digits.IndexOf('.', StringComparison.Ordinal);
                var whole = BigInteger.Parse(point < 0 ? digits : digits[..point], CultureInfo.InvariantCulture).ToString("N0", CultureInfo.InvariantCulture);
                digits = point < 0 ? whole : whole + digits[point..];
            }
            return PadDigits(double.IsNegative(number), digits);
        }

        public PromptText Pad(PromptText text) => Pad(text, Align == '\0' ? '<' : Align);

        private PromptText PadDigits(bool isNegative, string digits)
        {
            var sign = isNegative ? "-" : Sign == '-' ? "" : Sign.ToString();
            if ((IsZeroPadded && Align is '\0' or '>') || Align == '=') return sign + digits.PadLeft(Math.Max(0, Width - sign.Length), IsZeroPadded ? '0' : Fill[0]);
            return Pad(sign + digits, Align == '\0' ? '>' : Align);
        }

        private PromptText Pad(PromptText text, char align)
        {
            var missing = Math.Max(0, Width - PythonText.CountCodePoints(text.Text));
            var before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
            var padded = new PromptTextBuilder();
            for (var i = 0; i < before; i++) padded.Append(Fill);
            padded.Append(text);
            for (var i = before; i < missing; i++) padded.Append(Fill);
            return padded.Build();
        }
    }
}
