using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>
/// Cuts a template into tokens, with the settings that chat templates are written for: <c>trim_blocks</c> (the newline after a tag goes) and <c>lstrip_blocks</c> (so does the indentation before it).
/// </summary>
internal sealed partial class JinjaLexer
{
    private static readonly string[] s_operators = ["==", "!=", ">=", "<=", "//", "**", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"];

    private readonly string _source;
    private readonly List<JinjaToken> _tokens = [];
    private int _at;
    private int _line = 1;
    private int _lineAt;

    private JinjaLexer(string source)
    {
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        _source = source.EndsWith('\n') ? source[..^1] : source;
    }

    /// <exception cref="JinjaException">The source has a character, string or comment that ends nowhere.</exception>
    public static List<JinjaToken> Read(string source)
    {
        var lexer = new JinjaLexer(source);
        while (lexer._at < lexer._source.Length) lexer.ReadText();
        lexer.Add(JinjaTokenKind.End, "");
        return lexer._tokens;
    }

    private void ReadText()
    {
        var begin = _at;
        while ((begin = _source.IndexOf('{', begin)) >= 0 && !(begin + 1 < _source.Length && _source[begin + 1] is '{' or '%' or '#')) begin++;
        if (begin < 0)
        {
            AddText(_source[_at..]);
            _at = _source.Length;
            return;
        }
        var tag = _source[begin + 1];
        var sign = begin + 2 < _source.Length && _source[begin + 2] is '-' or '+' ? _source[begin + 2] : '\0';
        AddText(Trimmed(_source[_at..begin], sign, isVariable: tag == '{'));
        _at = begin;
        if (tag == '#') SkipComment(sign);
        else if (tag == '%' && RawBegin().Match(_source, begin) is { Success: true } raw) ReadRaw(raw);
        else ReadTag(tag == '{', sign);
    }

    /// <summary>A tag strips what stands before it: everything that is white with "-", and its own line's indentation with lstrip_blocks.</summary>
    private string Trimmed(string text, char sign, bool isVariable)
    {
        if (sign == '-')
        {
            var end = text.Length;
            while (end > 0 && PythonText.IsSpace(text[end - 1])) end--;
            return text[..end];
        }
        if (sign == '+' || isVariable) return text;
        var line = text.LastIndexOf('\n') + 1;
        var startsLine = line > 0 || _at == 0 || _source[_at - 1] == '\n';
        return startsLine && text.AsSpan(line).ContainsAnyNotSpace() is false ? text[..line] : text;
    }

    private void SkipComment(char sign)
    {
        var from = _at + (sign == '\0' ? 2 : 3);
        var end = from <= _source.Length ? _source.IndexOf("#}", from, StringComparison.Ordinal) : -1;
        if (end < 0) throw Error("the comment is not closed by '#}'");
        var closing = end > from ? _source[end - 1] : '\0';
        _at = end + 2;
        Trim(closing);
    }

    private void ReadRaw(Match begin)
    {
        var line = LineOf(_at);
        _at += begin.Length;
        if (begin.ValueSpan[^3] == '-') SkipSpace();
        var end = RawEnd().Match(_source, _at);
        if (!end.Success) throw new JinjaException("the raw block is not closed by '{% endraw %}'", line);
        AddText(Trimmed(_source[_at..end.Index], end.Groups[1].Length > 0 ? end.Groups[1].ValueSpan[0] : '\0', isVariable: false));
        _at = end.Index + end.Length;
        Trim(end.ValueSpan[^3]);
    }

    private void ReadTag(bool isVariable, char sign)
    {
        Add(isVariable ? JinjaTokenKind.VariableBegin : JinjaTokenKind.BlockBegin, isVariable ? "{{" : "{%");
        _at += sign == '\0' ? 2 : 3;
        var open = new Stack<char>();
        var close = isVariable ? "}}" : "%}";
        while (true)
        {
            SkipSpace();
            if (_at >= _source.Length) return;
            if (open.Count == 0)
            {
                var signed = _source[_at] == '-' || (_source[_at] == '+' && !isVariable) ? 1 : 0;
                if (string.CompareOrdinal(_source, _at + signed, close, 0, 2) == 0)
                {
                    var closing = _source[_at];
                    Add(isVariable ? JinjaTokenKind.VariableEnd : JinjaTokenKind.BlockEnd, close);
                    _at += signed + 2;
                    if (!isVariable || closing == '-') Trim(closing);
                    return;
                }
            }
            ReadToken(open);
        }
    }

    private void ReadToken(Stack<char> open)
    {
        var c = _source[_at];
        if (c is '"' or '\'') ReadString(c);
        else if (char.IsAsciiDigit(c)) ReadNumber();
        else if (c == '_' || char.IsLetter(c))
        {
            var end = _at + 1;
            while (end < _source.Length && (_source[end] == '_' || char.IsLetterOrDigit(_source[end]))) end++;
            Add(JinjaTokenKind.Name, _source[_at..end]);
            _at = end;
        }
        else
        {
            var op = Array.Find(s_operators, o => string.CompareOrdinal(_source, _at, o, 0, o.Length) == 0) ?? throw Error($"the character '{c}' is not expected here");
            if (op is "(" or "[" or "{") open.Push(op[0] == '(' ? ')' : op[0] == '[' ? ']' : '}');
            else if (op is ")" or "]" or "}" && (!open.TryPop(out var expected) || expected != op[0])) throw Error($"'{op}' closes nothing, or something else is still open");
            Add(JinjaTokenKind.Operator, op);
            _at += op.Length;
        }
    }

    private void ReadNumber()
    {
        // After a point stands an index, as in "list.0.1".
        var afterPoint = _at > 0 && _source[_at - 1] == '.';
        if (!afterPoint && FloatNumber().Match(_source, _at) is { Success: true } number) Add(JinjaTokenKind.Float, number.Value);
        else
        {
            number = IntegerNumber().Match(_source, _at);
            Add(JinjaTokenKind.Integer, number.Value);
        }
        _at += number.Length;
    }

    private void ReadString(char quote)
    {
        var start = _at;
        var text = new StringBuilder();
        for (var i = start + 1; i < _source.Length; i++)
        {
            if (_source[i] == quote)
            {
                Add(JinjaTokenKind.String, text.ToString());
                _at = i + 1;
                return;
            }
            if (_source[i] == '\\' && i + 1 < _source.Length) i = ReadEscape(i + 1, text);
            else text.Append(_source[i]);
        }
        throw Error("the string is not closed");
    }

    /// <summary>An escape as Python reads it; returns the position of its last character.</summary>
    private int ReadEscape(int at, StringBuilder text)
    {
        var c = _source[at];
        switch (c)
        {
            case '\n': return at;
            case 'n': text.Append('\n'); return at;
            case 't': text.Append('\t'); return at;
            case 'r': text.Append('\r'); return at;
            case 'a': text.Append('\a'); return at;
            case 'b': text.Append('\b'); return at;
            case 'f': text.Append('\f'); return at;
            case 'v': text.Append('\v'); return at;
            case '\\' or '\'' or '"': text.Append(c); return at;
            case >= '0' and <= '7':
                var value = 0;
                var end = at;
                for (; end < at + 3 && end < _source.Length && _source[end] is >= '0' and <= '7'; end++) value = value * 8 + _source[end] - '0';
                text.Append((char)value);
                return end - 1;
            case 'x' or 'u' or 'U':
                var length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
                if (at + length >= _source.Length || !int.TryParse(_source.AsSpan(at + 1, length), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var code) || code is < 0 or > 0x10FFFF)
                    throw Error($"the escape '\\{c}' needs {length} hexadecimal digits");
                if (code > char.MaxValue) text.Append(char.ConvertFromUtf32(code));
                else text.Append((char)code);
                return at + length;
            case 'N': throw JinjaException.Unsupported("the escape '\\N'", LineOf(_at));
            default: text.Append('\\').Append(c); return at;
        }
    }

    private void Trim(char closing)
    {
        if (closing == '-') SkipSpace();
        else if (closing != '+' && _at < _source.Length && _source[_at] == '\n') _at++;
    }

    private void SkipSpace()
    {
        while (_at < _source.Length && PythonText.IsSpace(_source[_at])) _at++;
    }

    private void AddText(string text)
    {
        if (text.Length > 0) Add(JinjaTokenKind.Data, text);
    }

    private void Add(JinjaTokenKind kind, string text) => _tokens.Add(new JinjaToken(kind, text, LineOf(_at)));

    private int LineOf(int position)
    {
        _line += _source.AsSpan(_lineAt, position - _lineAt).Count('\n');
        _lineAt = position;
        return _line;
    }

    private JinjaException Error(string message) => new(message, LineOf(_at));

    [GeneratedRegex(@"\G\{%[-+]?\s*raw\s*(-%\}|%\})")]
    private static partial Regex RawBegin();

    [GeneratedRegex(@"\{%([-+]?)\s*endraw\s*[-+]?%\}")]
    private static partial Regex RawEnd();

    [GeneratedRegex(@"\G[0-9](_?[0-9])*(\.[0-9](_?[0-9])*)?([eE][+-]?[0-9](_?[0-9])*)|\G[0-9](_?[0-9])*\.[0-9](_?[0-9])*")]
    private static partial Regex FloatNumber();

    [GeneratedRegex(@"\G(0[bB](_?[01])+|0[oO](_?[0-7])+|0[xX](_?[0-9a-fA-F])+|[0-9](_?[0-9])*)")]
    private static partial Regex IntegerNumber();
}
