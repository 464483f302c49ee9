using System.Globalization;
using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>Parses a template. Whatever is not of the supported subset is refused here, by name and line, before anything is rendered; only methods and globals are looked up later.</summary>
internal sealed class JinjaParser
{
    // What Jinja knows and chat templates have no use for: they reach for other files, or run code.
    private static readonly string[] s_otherTags = ["extends", "block", "include", "import", "from", "autoescape", "print", "do", "trans", "pluralize", "debug"];

    private readonly List<JinjaToken> _tokens;
    private readonly Stack<HashSet<string>> _uses = new();
    private int _at;
    private int _loops;

    private JinjaParser(List<JinjaToken> tokens)
    {
        _tokens = tokens;
        _uses.Push([]);
    }

    /// <param name="source">The template.</param>
    /// <param name="names">The names that the template reads, its own variables included.</param>
    /// <exception cref="JinjaException">The template is damaged, or uses something that is not supported.</exception>
    public static IReadOnlyList<Statement> Parse(string source, out IReadOnlySet<string> names)
    {
        var parser = new JinjaParser(JinjaLexer.Read(source));
        var body = parser.ParseBody("the template", parser.Current.Line);
        names = parser._uses.Peek();
        return body;
    }

    private JinjaToken Current => _tokens[_at];

    private JinjaToken Next() => _tokens[_at < _tokens.Count - 1 ? _at++ : _at];

    private bool Skip(string op)
    {
        if (!Current.Is(op)) return false;
        Next();
        return true;
    }

    private bool SkipName(string name)
    {
        if (!Current.IsName(name)) return false;
        Next();
        return true;
    }

    private void Expect(string op)
    {
        if (!Skip(op)) throw Error($"'{op}' is expected, not {Current}");
    }

    private string ExpectName(string what)
    {
        if (Current.Kind != JinjaTokenKind.Name) throw Error($"{what} is expected, not {Current}");
        return Next().Text;
    }

    private void Expect(JinjaTokenKind kind)
    {
        if (Current.Kind != kind) throw Error($"{(kind == JinjaTokenKind.BlockEnd ? "'%}'" : "'}}'")} is expected, not {Current}");
        Next();
    }

    private JinjaException Error(string message) => new(message, Current.Line);

    // Statements

    /// <summary>Statements up to one of the end tags, whose name is then the current token; without end tags, up to the end of the template.</summary>
    private List<Statement> ParseBody(string owner, int line, params ReadOnlySpan<string> ends)
    {
        JinjaLimits.Descend();
        var body = new List<Statement>();
        while (true)
        {
            var token = Next();
            switch (token.Kind)
            {
                case JinjaTokenKind.End:
                    return ends.Length == 0 ? body : throw new JinjaException($"{owner} of line {line} is not closed by '{ends[^1]}'", token.Line);
                case JinjaTokenKind.Data:
                    body.Add(new TextOutput(token.Text, token.Line));
                    break;
                case JinjaTokenKind.VariableBegin:
                    body.Add(new Output(ParseTuple(), token.Line));
                    Expect(JinjaTokenKind.VariableEnd);
                    break;
                default:
                    if (Current.Kind != JinjaTokenKind.Name) throw Error($"the name of a tag is expected, not {Current}");
                    foreach (var end in ends)
                    {
                        if (Current.Text == end) return body;
                    }
                    body.Add(ParseStatement(Next()));
                    break;
            }
        }
    }

    private Statement ParseStatement(JinjaToken tag)
    {
        switch (tag.Text)
        {
            case "if": return ParseIf(tag.Line);
            case "for": return ParseFor(tag.Line);
            case "set": return ParseSet(tag.Line);
            case "macro": return ParseMacro(tag.Line);
            case "call": return ParseCallBlock(tag.Line);
            case "with": return ParseWith(tag.Line);
            case "filter":
                var filter = ParseFilters(null);
                Expect(JinjaTokenKind.BlockEnd);
                return new Scoped([], filter, ParseBlock("filter", tag.Line), tag.Line);
            case "generation":
                Expect(JinjaTokenKind.BlockEnd);
                return new Scoped([], null, ParseBlock("generation", tag.Line), tag.Line);
            case "break" or "continue":
                if (_loops == 0) throw new JinjaException($"'{tag.Text}' stands outside a loop", tag.Line);
                Expect(JinjaTokenKind.BlockEnd);
                return tag.Text == "break" ? new Break(tag.Line) : new Continue(tag.Line);
            default:
                throw s_otherTags.Contains(tag.Text)
                    ? JinjaException.Unsupported($"the tag '{tag.Text}'", tag.Line)
                    : new JinjaException($"the tag '{tag.Text}' is unknown or closes nothing", tag.Line) { IsUnsupported = !tag.Text.StartsWith("end", StringComparison.Ordinal) && tag.Text is not ("else" or "elif") };
        }
    }

    /// <summary>A body and its end tag.</summary>
    private List<Statement> ParseBlock(string tag, int line)
    {
        var body = ParseBody($"'{tag}'", line, "end" + tag);
        Next();
        Expect(JinjaTokenKind.BlockEnd);
        return body;
    }

    private If ParseIf(int line)
    {
        var branches = new List<(Expression, IReadOnlyList<Statement>)>();
        var otherwise = new List<Statement>();
        string end;
        do
        {
            var test = ParseTuple(withConditional: false);
            Expect(JinjaTokenKind.BlockEnd);
            branches.Add((test, ParseBody("'if'", line, "elif", "else", "endif")));
            end = Next().Text;
        }
        while (end == "elif");
        Expect(JinjaTokenKind.BlockEnd);
        if (end == "else") otherwise = ParseBlock("if", line);
        return new If(branches, otherwise, line);
    }

    private For ParseFor(int line)
    {
        var target = ParseTarget(withNamespace: false);
        if (!SkipName("in")) throw Error($"'in' is expected, not {Current}");
        var items = ParseTuple(withConditional: false);
        var filter = SkipName("if") ? ParseExpression() : null;
        var isRecursive = SkipName("recursive");
        Expect(JinjaTokenKind.BlockEnd);
        _loops++;
        var body = ParseBody("'for'", line, "else", "endfor");
        _loops--;
        var hasElse = Next().Text == "else";
        Expect(JinjaTokenKind.BlockEnd);
        return new For(target, items, filter, isRecursive, body, hasElse ? ParseBlock("for", line) : [], line);
    }

    private Statement ParseSet(int line)
    {
        var target = ParseTarget(withNamespace: true);
        if (Skip("="))
        {
            var value = ParseTuple();
            Expect(JinjaTokenKind.BlockEnd);
            return new Assignment(target, value, line);
        }
        var filter = Current.Is("|") ? ParsePostfixFilters(null) : null;
        Expect(JinjaTokenKind.BlockEnd);
        return new BlockAssignment(target, filter, ParseBlock("set", line), line);
    }

    private MacroDefinition ParseMacro(int line)
    {
        var name = ExpectName("the name of the macro");
        _uses.Push([]);
        var parameters = ParseParameters();
        Expect(JinjaTokenKind.BlockEnd);
        return new MacroDefinition(name, parameters, ParseCallable("macro", line, out var uses), uses, line);
    }

    private CallBlock ParseCallBlock(int line)
    {
        _uses.Push([]);
        var parameters = Current.Is("(") ? ParseParameters() : [];
        if (ParseExpression() is not Call call) throw new JinjaException("a 'call' block needs a call", line);
        Expect(JinjaTokenKind.BlockEnd);
        var body = ParseCallable("call", line, out var uses);
        return new CallBlock(new MacroDefinition("caller", parameters, body, uses, line), call, line);
    }

    /// <summary>A body that runs when it is called: a loop around it is not its own.</summary>
    private List<Statement> ParseCallable(string tag, int line, out IReadOnlySet<string> uses)
    {
        var loops = _loops;
        _loops = 0;
        var body = ParseBlock(tag, line);
        _loops = loops;
        var own = _uses.Pop();
        _uses.Peek().UnionWith(own);
        uses = own;
        return body;
    }

    private List<(string, Expression?)> ParseParameters()
    {
        var parameters = new List<(string, Expression?)>();
        Expect("(");
        while (!Skip(")"))
        {
            if (parameters.Count > 0) Expect(",");
            var name = ParseAssignedName();
            parameters.Add((name, Skip("=") ? ParseExpression() : null));
        }
        return parameters;
    }

    private Scoped ParseWith(int line)
    {
        var values = new List<(Target, Expression)>();
        while (Current.Kind != JinjaTokenKind.BlockEnd)
        {
            if (values.Count > 0) Expect(",");
            var target = new NameTarget(ParseAssignedName());
            Expect("=");
            values.Add((target, ParseExpression()));
        }
        Expect(JinjaTokenKind.BlockEnd);
        return new Scoped(values, null, ParseBlock("with", line), line);
    }

    private Target ParseTarget(bool withNamespace)
    {
        JinjaLimits.Descend();
        if (withNamespace && _tokens[Math.Min(_at + 1, _tokens.Count - 1)].Is("."))
        {
            var name = ExpectName("a variable");
            Next();
            _uses.Peek().Add(name);
            return new NamespaceTarget(name, ExpectName("an attribute"));
        }
        var items = new List<Target> { ParseOneTarget() };
        var isTuple = false;
        while (Skip(","))
        {
            isTuple = true;
            if (Current.Is("=") || Current.Is(")") || Current.IsName("in")) break;
            items.Add(ParseOneTarget());
        }
        return isTuple ? new TupleTarget(items) : items[0];
    }

    private Target ParseOneTarget()
    {
        if (!Skip("(")) return new NameTarget(ParseAssignedName());
        var inner = ParseTarget(withNamespace: false);
        Expect(")");
        return inner;
    }

    private string ParseAssignedName()
    {
        var name = ExpectName("a variable");
        return name is "true" or "True" or "false" or "False" or "none" or "None" or "not" or "and" or "or" or "in" or "is" or "if" or "else"
            ? throw Error($"nothing can be assigned to '{name}'")
            : name;
    }

    // Expressions, from loosest to tightest

    /// <summary>One expression, or a tuple without parentheses.</summary>
    private Expression ParseTuple(bool withConditional = true)
    {
        var line = Current.Line;
        var items = new List<Expression> { ParseExpression(withConditional) };
        if (!Current.Is(",")) return items[0];
        while (Skip(","))
        {
            if (Current.Kind is JinjaTokenKind.VariableEnd or JinjaTokenKind.BlockEnd || Current.Is(")")) break;
            items.Add(ParseExpression(withConditional));
        }
        return new ListDisplay(items, IsTuple: true, line);
    }

    private Expression ParseExpression(bool withConditional = true)
    {
        JinjaLimits.Descend();
        var value = ParseOr();
        if (!withConditional) return value;
        while (Current.IsName("if"))
        {
            var line = Next().Line;
            var test = ParseOr();
            value = new Conditional(test, value, SkipName("else") ? ParseExpression() : null, line);
        }
        return value;
    }

    private Expression ParseOr()
    {
        var left = ParseAnd();
        while (Current.IsName("or")) left = new Binary("or", left, Right(ParseAnd), left.Line);
        return left;
    }

    private Expression ParseAnd()
    {
        var left = ParseNot();
        while (Current.IsName("and")) left = new Binary("and", left, Right(ParseNot), left.Line);
        return left;
    }

    private Expression Right(Func<Expression> parse)
    {
        Next();
        return parse();
    }

    private Expression ParseNot()
    {
        JinjaLimits.Descend();
        if (!Current.IsName("not")) return ParseComparison();
        var line = Next().Line;
        return new Unary("not", ParseNot(), line);
    }

    private Expression ParseComparison()
    {
        var first = ParseSum();
        var rest = new List<(string, Expression)>();
        while (true)
        {
            if (Current.Kind == JinjaTokenKind.Operator && Current.Text is "==" or "!=" or "<" or "<=" or ">" or ">=") rest.Add((Next().Text, ParseSum()));
            else if (SkipName("in")) rest.Add(("in", ParseSum()));
            else if (Current.IsName("not") && _tokens[_at + 1].IsName("in"))
            {
                Next();
                Next();
                rest.Add(("not in", ParseSum()));
            }
            else return rest.Count == 0 ? first : new Comparison(first, rest, first.Line);
        }
    }

    private Expression ParseSum()
    {
        var left = ParseConcatenation();
        while (Current.Is("+") || Current.Is("-")) left = new Binary(Next().Text, left, ParseConcatenation(), left.Line);
        return left;
    }

    private Expression ParseConcatenation()
    {
        var parts = new List<Expression> { ParseProduct() };
        while (Skip("~")) parts.Add(ParseProduct());
        return parts.Count == 1 ? parts[0] : new Concatenation(parts, parts[0].Line);
    }

    private Expression ParseProduct()
    {
        var left = ParsePower();
        while (Current.Kind == JinjaTokenKind.Operator && Current.Text is "*" or "/" or "//" or "%") left = new Binary(Next().Text, left, ParsePower(), left.Line);
        return left;
    }

    private Expression ParsePower()
    {
        // From left to right, unlike Python's.
        var left = ParseUnary(withFilters: true);
        while (Current.Is("**")) left = new Binary(Next().Text, left, ParseUnary(withFilters: true), left.Line);
        return left;
    }

    private Expression ParseUnary(bool withFilters)
    {
        JinjaLimits.Descend();
        Expression value;
        if (Current.Is("-") || Current.Is("+"))
        {
            var sign = Next();
            value = new Unary(sign.Text, ParseUnary(withFilters: false), sign.Line);
        }
        else value = ParsePrimary();
        value = ParsePostfix(value);
        return withFilters ? ParseFilterExpression(value) : value;
    }

    private Expression ParsePrimary()
    {
        var token = Current;
        switch (token.Kind)
        {
            case JinjaTokenKind.Name:
                if (token.Text is "not" or "and" or "or" or "in" or "is" or "if" or "else") throw Error($"an expression is expected, not {token}");
                Next();
                switch (token.Text)
                {
                    case "true" or "True": return new Constant(true, token.Line);
                    case "false" or "False": return new Constant(false, token.Line);
                    case "none" or "None": return new Constant(null, token.Line);
                }
                _uses.Peek().Add(token.Text);
                return new Name(token.Text, token.Line);
            case JinjaTokenKind.String:
                var text = Next().Text;
                while (Current.Kind == JinjaTokenKind.String) text += Next().Text;
                return new Constant(new PromptText(text), token.Line);
            case JinjaTokenKind.Integer:
                return new Constant(Integer(Next()), token.Line);
            case JinjaTokenKind.Float:
                return new Constant(double.Parse(Next().Text.Replace("_", "", StringComparison.Ordinal), NumberStyles.Float, CultureInfo.InvariantCulture), token.Line);
        }
        if (Skip("("))
        {
            if (Skip(")")) return new ListDisplay([], IsTuple: true, token.Line);
            var inner = ParseTuple();
            Expect(")");
            return inner;
        }
        if (Skip("[")) return new ListDisplay(ParseItems("]"), IsTuple: false, token.Line);
        if (Skip("{")) return ParseDict(token.Line);
        throw Error($"an expression is expected, not {token}");
    }

    private static BigInteger Integer(JinjaToken token)
    {
        var digits = token.Text.Replace("_", "", StringComparison.Ordinal);
        if (digits.Length > 1000) throw new JinjaException("a number has more than 1000 digits", token.Line);
        if (digits.Length > 2 && digits[0] == '0' && char.IsAsciiLetter(digits[1]))
        {
            var bits = char.ToLowerInvariant(digits[1]) switch { 'b' => 1, 'o' => 3, _ => 4 };
            return digits[2..].Aggregate(BigInteger.Zero, (value, digit) => (value << bits) + Convert.ToInt32(digit.ToString(), 16));
        }
        if (digits.Length > 1 && digits[0] == '0' && digits.AsSpan().ContainsAnyExcept('0')) throw new JinjaException($"the number {token.Text} begins with 0", token.Line);
        return BigInteger.Parse(digits, CultureInfo.InvariantCulture);
    }

    private List<Expression> ParseItems(string close)
    {
        var items = new List<Expression>();
        while (!Skip(close))
        {
            if (items.Count > 0)
            {
                if (!Current.Is(",")) throw Error($"',' or '{close}' is expected, not {Current}");
                Next();
                if (Skip(close)) break;
            }
            items.Add(ParseExpression());
        }
        return items;
    }

    private DictDisplay ParseDict(int line)
    {
        var items = new List<(Expression, Expression)>();
        while (!Skip("}"))
        {
            if (items.Count > 0)
            {
                Expect(",");
                if (Skip("}")) break;
            }
            var key = ParseExpression();
            Expect(":");
            items.Add((key, ParseExpression()));
        }
        return new DictDisplay(items, line);
    }

    private Expression ParsePostfix(Expression value)
    {
        while (true)
        {
            var line = Current.Line;
            if (Skip("."))
            {
                if (Current.Kind == JinjaTokenKind.Integer) value = new ItemOf(value, new Constant(Integer(Next()), line), line);
                else value = new AttributeOf(value, ExpectName("an attribute"), line);
            }
            else if (Skip("[")) value = ParseSubscript(value, line);
            else if (Current.Is("(")) value = new Call(value, ParseArguments(), line);
            else return value;
        }
    }

    private Expression ParseSubscript(Expression target, int line)
    {
        var start = Current.Is(":") ? null : ParseExpression();
        if (Skip("]")) return new ItemOf(target, start!, line);
        if (start is not null && Current.Is(",")) throw JinjaException.Unsupported("a subscript of several values", line);
        Expect(":");
        var stop = Current.Is(":") || Current.Is("]") ? null : ParseExpression();
        var step = Skip(":") && !Current.Is("]") ? ParseExpression() : null;
        Expect("]");
        return new SliceOf(target, start, stop, step, line);
    }

    private Expression ParseFilterExpression(Expression value)
    {
        while (true)
        {
            if (Current.Is("|")) value = ParsePostfixFilters(value);
            else if (Current.IsName("is")) value = ParseTest(value);
            else if (Current.Is("(")) value = new Call(value, ParseArguments(), Current.Line);
            else return value;
        }
    }

    private Expression ParsePostfixFilters(Expression? value)
    {
        while (Skip("|")) value = ParseFilter(value);
        return value!;
    }

    private Expression ParseFilters(Expression? value) => ParsePostfixFilters(ParseFilter(value));

    private FilterCall ParseFilter(Expression? value)
    {
        var line = Current.Line;
        var name = ExpectName("the name of a filter");
        if (!JinjaFilters.All.TryGetValue(name, out var function)) throw JinjaException.Unsupported($"the filter '{name}'", line);
        return new FilterCall(value, name, function, Current.Is("(") ? ParseArguments() : ArgumentList.Empty, line);
    }

    private TestCall ParseTest(Expression value)
    {
        var line = Next().Line;
        var isNegated = SkipName("not");
        var name = ExpectName("the name of a test");
        if (!JinjaTests.All.TryGetValue(name, out var function)) throw JinjaException.Unsupported($"the test '{name}'", line);
        var arguments = ArgumentList.Empty;
        if (Current.Is("(")) arguments = ParseArguments();
        else if (Current.IsName("is")) throw Error("tests cannot follow each other; use 'and'");
        else if ((Current.Kind is JinjaTokenKind.Name && Current.Text is not ("else" or "or" or "and" or "if" or "in" or "not" or "recursive")) || Current.Kind is JinjaTokenKind.String or JinjaTokenKind.Integer or JinjaTokenKind.Float || Current.Is("[") || Current.Is("{"))
            arguments = new ArgumentList([ParsePostfix(ParsePrimary())], [], null, null);
        return new TestCall(value, function, arguments, isNegated, line);
    }

    private ArgumentList ParseArguments()
    {
        Expect("(");
        List<Expression> positional = [];
        List<(string, Expression)> named = [];
        Expression? spread = null, namedSpread = null;
        var isFirst = true;
        while (!Skip(")"))
        {
            if (!isFirst)
            {
                Expect(",");
                if (Skip(")")) break;
            }
            isFirst = false;
            if (spread is null && namedSpread is null && Skip("*")) spread = ParseExpression();
            else if (namedSpread is null && Skip("**")) namedSpread = ParseExpression();
            else if (Current.Kind == JinjaTokenKind.Name && _tokens[_at + 1].Is("="))
            {
                var name = Next().Text;
                Next();
                named.Add((name, ParseExpression()));
            }
            else if (named.Count == 0 && spread is null && namedSpread is null) positional.Add(ParseExpression());
            else throw Error("a positional argument cannot follow a named one");
        }
        return new ArgumentList(positional, named, spread, namedSpread);
    }
}
