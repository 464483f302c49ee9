using System.Numerics;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>Renders a parsed template once. Texts keep what of them came from messages, whatever the template does to them.</summary>
internal sealed class JinjaInterpreter
{
    private const int MaximumCalls = 200;

    private PromptTextBuilder _output = new();
    private int _line = 1;
    private int _calls;

    private JinjaInterpreter()
    {
    }

    private enum Flow { Next, Break, Continue }

    /// <param name="template">What <see cref="JinjaParser"/> read.</param>
    /// <param name="variables">The names that the template finds.</param>
    /// <exception cref="JinjaException">The template raised an exception, used a value wrongly, or costs too much; with the line.</exception>
    public static PromptText Render(IReadOnlyList<Statement> template, IEnumerable<KeyValuePair<string, object?>> variables)
    {
        var globals = new JinjaScope(null);
        foreach (var (name, function) in JinjaGlobals.All) globals[name] = new JinjaCallable(name, function);
        foreach (var (name, value) in variables) globals[name] = value;
        var interpreter = new JinjaInterpreter();
        try
        {
            return JinjaLimits.Within(() =>
            {
                interpreter.Execute(template, new JinjaScope(globals));
                return interpreter._output.Build();
            });
        }
        catch (JinjaException e)
        {
            throw e.At(interpreter._line);
        }
    }

    public object? Call(object? function, JinjaArguments arguments)
    {
        JinjaLimits.Descend();
        switch (function)
        {
            case JinjaCallable callable: return callable.Function(this, arguments);
            case JinjaMacro macro: return Enter(() => Run(macro, arguments));
            case JinjaLoop { Recursive: { } loop } self:
                var bound = arguments.Bind("iterable");
                return Enter(() => Capture(() => Execute(loop, PythonValue.Items(bound[0]), self.Scope, self.Depth + 1)));
            default:
                PythonValue.Defined(function);
                throw new JinjaException($"a {PythonValue.TypeName(function)} cannot be called");
        }
    }

    /// <summary>Jinja's <c>value.name</c>: a method, else an item of that name.</summary>
    public static object? Attribute(object? value, string name)
    {
        PythonValue.Defined(value);
        switch (value)
        {
            case JinjaNamespace space: return space.Attributes.TryGetValue(name, out var attribute) ? attribute : new Undefined($"the namespace has no attribute '{name}'");
            case JinjaLoop loop: return loop.Get(name);
        }
        if (JinjaMethods.Find(value, name) is { } method) return method;
        if (value is JinjaDict dict && dict.TryGet((PromptText)name, out var item)) return item;
        return new Undefined(value is null ? $"None has no attribute '{name}'" : $"a {PythonValue.TypeName(value)} has no attribute '{name}'");
    }

    /// <summary>Jinja's <c>value[key]</c>: an item, else a method of that name.</summary>
    public static object? Item(object? value, object? key)
    {
        PythonValue.Defined(value);
        if (value is JinjaDict dict && key is not (JinjaDict or JinjaList { IsTuple: false }) && dict.TryGet(key, out var item)) return item;
        if (key is bool or BigInteger && value is PromptText or JinjaList or JinjaRange)
        {
            var length = PythonValue.Length(value);
            var index = PythonValue.Integer(key);
            if (index < 0) index += length;
            if (index < 0 || index >= length) return new Undefined($"a {PythonValue.TypeName(value)} has no element {PythonValue.Integer(key)}");
            return value is PromptText text ? PythonValue.CharacterAt(text, (int)index) : value is JinjaRange range ? range[(int)index] : ((JinjaList)value).Items[(int)index];
        }
        if (key is PromptText name) return value is JinjaNamespace or JinjaLoop ? Attribute(value, name.Text) : JinjaMethods.Find(value, name.Text) ?? Missing();
        return Missing();

        object Missing() => new Undefined($"a {PythonValue.TypeName(value)} has no item {(key is PromptText or BigInteger ? PythonValue.Repr(key).Text : "of a " + PythonValue.TypeName(key))}");
    }

    private Flow Execute(IReadOnlyList<Statement> statements, JinjaScope scope)
    {
        JinjaLimits.Descend();
        foreach (var statement in statements)
        {
            if (Execute(statement, scope) is var flow and not Flow.Next) return flow;
        }
        return Flow.Next;
    }

    private Flow Execute(Statement statement, JinjaScope scope)
    {
        JinjaLimits.Step();
        _line = statement.Line;
        switch (statement)
        {
            case TextOutput text:
                Write(text.Text);
                return Flow.Next;
            case Output output:
                Write(PythonValue.Str(Evaluate(output.Value, scope)));
                return Flow.Next;
            case If choice:
                foreach (var (test, body) in choice.Branches)
                {
                    if (PythonValue.IsTrue(Evaluate(test, scope))) return Execute(body, scope);
                }
                return Execute(choice.Else, scope);
            case For loop:
                return ExecuteFor(loop, PythonValue.Items(Evaluate(loop.Items, scope)), scope, depth: 0);
            case Assignment assignment:
                Assign(assignment.Target, Evaluate(assignment.Value, scope), scope);
                return Flow.Next;
            case BlockAssignment assignment:
                var block = Capture(() => Execute(assignment.Body, new JinjaScope(scope)));
                Assign(assignment.Target, assignment.Filter is null ? block : Filter(assignment.Filter, block, scope), scope);
                return Flow.Next;
            case MacroDefinition macro:
                scope[macro.Name] = new JinjaMacro(macro, scope);
                return Flow.Next;
            case CallBlock call:
                Write(PythonValue.Str(Evaluate(call.Call, scope, new JinjaMacro(call.Caller, scope))));
                return Flow.Next;
            case Scoped scoped:
                return ExecuteScoped(scoped, scope);
            case Break:
                return Flow.Break;
            case Continue:
                return Flow.Continue;
            default:
                throw new InvalidOperationException($"No statement is a {statement.GetType().Name}.");
        }
    }

    private Flow ExecuteScoped(Scoped scoped, JinjaScope scope)
    {
        var inner = new JinjaScope(scope);
        foreach (var (target, value) in scoped.Values) Assign(target, Evaluate(value, scope), inner);
        if (scoped.Filter is null) return Execute(scoped.Body, inner);
        var flow = Flow.Next;
        var block = Capture(() => flow = Execute(scoped.Body, inner));
        Write(PythonValue.Str(Filter(scoped.Filter, block, scope)));
        return flow;
    }

    private Flow ExecuteFor(For loop, IReadOnlyList<object?> items, JinjaScope scope, int depth)
    {
        if (loop.Filter is not null)
        {
            items = [.. items.Where(item =>
            {
                var inner = new JinjaScope(scope);
                Assign(loop.Target, item, inner);
                return PythonValue.IsTrue(Evaluate(loop.Filter, inner));
            })];
        }
        if (items.Count == 0) return Execute(loop.Else, new JinjaScope(scope));
        var state = new JinjaLoop(items, depth, loop.IsRecursive ? loop : null, scope);
        for (var i = 0; i < items.Count; i++)
        {
            // What a body sets is forgotten with its round; Jinja keeps values in namespaces only.
            var inner = new JinjaScope(scope);
            state.Index = i;
            inner["loop"] = state;
            Assign(loop.Target, items[i], inner);
            if (Execute(loop.Body, inner) == Flow.Break) break;
        }
        return Flow.Next;
    }

    private void Execute(For loop, IReadOnlyList<object?> items, JinjaScope scope, int depth) => ExecuteFor(loop, items, scope, depth);

    private static void Assign(Target target, object? value, JinjaScope scope)
    {
        switch (target)
        {
            case NameTarget name:
                scope[name.Name] = value;
                break;
            case NamespaceTarget attribute:
                if (!scope.TryGet(attribute.Name, out var space) || space is not JinjaNamespace found) throw new JinjaException($"'{attribute.Name}' is not a namespace: nothing can be assigned to '{attribute.Name}.{attribute.Attribute}'");
                JinjaGlobals.Set(found, attribute.Attribute, value);
                break;
            case TupleTarget tuple:
                var items = PythonValue.Items(PythonValue.Defined(value));
                if (items.Count != tuple.Items.Count) throw new JinjaException($"{tuple.Items.Count} values are expected, not {items.Count}");
                for (var i = 0; i < items.Count; i++) Assign(tuple.Items[i], items[i], scope);
                break;
        }
    }

    private PromptText Capture(Action render)
    {
        var outer = _output;
        _output = new PromptTextBuilder();
        render();
        var captured = _output.Build();
        _output = outer;
        return captured;
    }

    private object? Enter(Func<object?> call)
    {
        if (++_calls > MaximumCalls) throw new JinjaException($"macros call each other more than {MaximumCalls} deep");
        var result = call();
        _calls--;
        return result;
    }

    private PromptText Run(JinjaMacro macro, JinjaArguments arguments)
    {
        var definition = macro.Definition;
        var scope = new JinjaScope(macro.Scope);
        var named = new Dictionary<string, object?>(arguments.Named, StringComparer.Ordinal);
        for (var i = 0; i < definition.Parameters.Count; i++)
        {
            var (name, otherwise) = definition.Parameters[i];
            if (i < arguments.Positional.Count) scope[name] = named.ContainsKey(name) ? throw new JinjaException($"macro '{definition.Name}' was given '{name}' twice") : arguments.Positional[i];
            else if (named.Remove(name, out var value)) scope[name] = value;
            else scope[name] = otherwise is null ? new Undefined($"'{name}' was not given to macro '{definition.Name}'") : Evaluate(otherwise, scope);
        }
        if (definition.Uses.Contains("caller") && !definition.Parameters.Any(static p => p.Name == "caller"))
            scope["caller"] = named.Remove("caller", out var caller) ? caller : new Undefined("the macro was not called by a 'call' block");
        var rest = arguments.Positional.Skip(definition.Parameters.Count).ToList();
        if (definition.Uses.Contains("varargs")) scope["varargs"] = new JinjaList(rest, isTuple: true);
        else if (rest.Count > 0) throw new JinjaException($"macro '{definition.Name}' takes at most {definition.Parameters.Count} arguments");
        if (definition.Uses.Contains("kwargs"))
        {
            var dict = new JinjaDict();
            foreach (var (name, value) in named) dict[PromptText.Input(name)] = value;
            scope["kwargs"] = dict;
        }
        else if (named.Count > 0) throw new JinjaException($"macro '{definition.Name}' has no argument '{named.Keys.First()}'");
        return Capture(() => Execute(definition.Body, scope));
    }

    private object? Filter(Expression filters, PromptText input, JinjaScope scope)
    {
        var call = (FilterCall)filters;
        var value = call.Input is null ? input : Filter(call.Input, input, scope);
        return call.Function(this, Arguments(call.Filter, call.Arguments, scope, [value]));
    }

    private JinjaArguments Arguments(string function, ArgumentList list, JinjaScope scope, List<object?> positional, JinjaMacro? caller = null)
    {
        foreach (var value in list.Positional) positional.Add(Evaluate(value, scope));
        if (list.Spread is not null) positional.AddRange(PythonValue.Items(PythonValue.Defined(Evaluate(list.Spread, scope))));
        if (list.Named.Count == 0 && list.NamedSpread is null && caller is null) return new JinjaArguments(function, positional);
        var named = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var (name, value) in list.Named)
        {
            if (!named.TryAdd(name, Evaluate(value, scope))) throw new JinjaException($"'{function}' was given '{name}' twice");
        }
        if (list.NamedSpread is not null)
        {
            if (Evaluate(list.NamedSpread, scope) is not JinjaDict dict) throw new JinjaException("'**' needs a dict");
            foreach (var (name, value) in dict.Items)
            {
                if (!named.TryAdd(PythonValue.Str(name).Text, value)) throw new JinjaException($"'{function}' was given '{PythonValue.Str(name)}' twice");
            }
        }
        if (caller is not null) named["caller"] = caller;
        return new JinjaArguments(function, positional, named);
    }

    private object? Evaluate(Expression expression, JinjaScope scope, JinjaMacro? caller = null)
    {
        JinjaLimits.Descend();
        _line = expression.Line;
        var value = Value(expression, scope, caller);
        if (value is PromptText text) JinjaLimits.Read(text.Length);
        return value;
    }

    private object? Value(Expression expression, JinjaScope scope, JinjaMacro? caller)
    {
        switch (expression)
        {
            case Constant constant: return constant.Value;
            case Name name: return scope.TryGet(name.Text, out var value) ? value : new Undefined($"'{name.Text}' is undefined");
            case ListDisplay list: return new JinjaList([.. list.Items.Select(item => Evaluate(item, scope))], list.IsTuple);
            case DictDisplay display:
                var dict = new JinjaDict();
                foreach (var (key, item) in display.Items) dict[Evaluate(key, scope)] = Evaluate(item, scope);
                return dict;
            case AttributeOf attribute: return Attribute(Evaluate(attribute.Target, scope), attribute.Attribute);
            case ItemOf item: return Item(Evaluate(item.Target, scope), Evaluate(item.Key, scope));
            case SliceOf slice:
                var sliced = PythonValue.Slice(Evaluate(slice.Target, scope), Optional(slice.Start), Optional(slice.Stop), Optional(slice.Step));
                if (sliced is JinjaList { Items.Count: var count }) JinjaLimits.Step(count);
                return sliced;
            case Call call:
                var function = Evaluate(call.Target, scope);
                PythonValue.Defined(function);
                return Call(function, Arguments(NameOf(function), call.Arguments, scope, [], caller));
            case FilterCall filter: return filter.Function(this, Arguments(filter.Filter, filter.Arguments, scope, [Evaluate(filter.Input!, scope)]));
            case TestCall test: return PythonValue.IsTrue(test.Function(this, Arguments("is", test.Arguments, scope, [Evaluate(test.Input, scope)]))) != test.IsNegated;
            case Conditional conditional:
                if (PythonValue.IsTrue(Evaluate(conditional.Test, scope))) return Evaluate(conditional.Then, scope);
                return conditional.Else is null ? new Undefined("the inline 'if' has no 'else'") : Evaluate(conditional.Else, scope);
            case Unary unary: return Negate(unary.Operator, Evaluate(unary.Operand, scope));
            case Binary { Operator: "and" } and:
                var first = Evaluate(and.Left, scope);
                return PythonValue.IsTrue(first) ? Evaluate(and.Right, scope) : first;
            case Binary { Operator: "or" } or:
                first = Evaluate(or.Left, scope);
                return PythonValue.IsTrue(first) ? first : Evaluate(or.Right, scope);
            case Binary binary:
                var result = PythonValue.Apply(binary.Operator, Evaluate(binary.Left, scope), Evaluate(binary.Right, scope));
                if (result is JinjaList { Items.Count: var length }) JinjaLimits.Step(length);
                return result;
            case Comparison comparison: return Compare(comparison, scope);
            case Concatenation concatenation:
                var joined = new PromptTextBuilder();
                foreach (var part in concatenation.Parts)
                {
                    joined.Append(PythonValue.Str(Evaluate(part, scope)));
                    JinjaLimits.CheckLength(joined.Length);
                }
                return joined.Build();
            default: throw new InvalidOperationException($"No expression is a {expression.GetType().Name}.");
        }

        object? Optional(Expression? bound) => bound is null ? null : Evaluate(bound, scope);
    }

    private bool Compare(Comparison comparison, JinjaScope scope)
    {
        var left = Evaluate(comparison.First, scope);
        foreach (var (op, expression) in comparison.Rest)
        {
            var right = Evaluate(expression, scope);
            var holds = op switch
            {
                "==" => PythonValue.AreEqual(left, right),
                "!=" => !PythonValue.AreEqual(left, right),
                "<" => PythonValue.Compare(left, right, op) < 0,
                "<=" => PythonValue.Compare(left, right, op) <= 0,
                ">" => PythonValue.Compare(left, right, op) > 0,
                ">=" => PythonValue.Compare(left, right, op) >= 0,
                "in" => PythonValue.Contains(right, left),
                _ => !PythonValue.Contains(right, left),
            };
            if (!holds) return false;
            left = right;
        }
        return true;
    }

    private static object Negate(string op, object? value) => (op, PythonValue.Defined(op == "not" ? null : value)) switch
    {
        ("not", _) => !PythonValue.IsTrue(value),
        (_, double number) => op == "-" ? -number : number,
        (_, bool or BigInteger) => op == "-" ? -PythonValue.Integer(value) : PythonValue.Integer(value),
        _ => throw new JinjaException($"'{op}' is not supported for a {PythonValue.TypeName(value)}"),
    };

    private static string NameOf(object? function) => function switch
    {
        JinjaCallable callable => callable.Name,
        JinjaMacro macro => macro.Definition.Name,
        _ => PythonValue.TypeName(function),
    };

    private void Write(PromptText text)
    {
        JinjaLimits.Read(text.Length);
        JinjaLimits.CheckLength((long)_output.Length + text.Length);
        _output.Append(text);
    }
}
