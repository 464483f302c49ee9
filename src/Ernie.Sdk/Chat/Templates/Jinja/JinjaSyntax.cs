namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>A piece of a template's syntax tree.</summary>
internal abstract record JinjaNode(int Line);

internal abstract record Expression(int Line) : JinjaNode(Line);

internal sealed record Constant(object? Value, int Line) : Expression(Line);

internal sealed record Name(string Text, int Line) : Expression(Line);

internal sealed record ListDisplay(IReadOnlyList<Expression> Items, bool IsTuple, int Line) : Expression(Line);

internal sealed record DictDisplay(IReadOnlyList<(Expression Key, Expression Value)> Items, int Line) : Expression(Line);

internal sealed record Unary(string Operator, Expression Operand, int Line) : Expression(Line);

internal sealed record Binary(string Operator, Expression Left, Expression Right, int Line) : Expression(Line);

internal sealed record Comparison(Expression First, IReadOnlyList<(string Operator, Expression Right)> Rest, int Line) : Expression(Line);

internal sealed record Concatenation(IReadOnlyList<Expression> Parts, int Line) : Expression(Line);

internal sealed record Conditional(Expression Test, Expression Then, Expression? Else, int Line) : Expression(Line);

internal sealed record AttributeOf(Expression Target, string Attribute, int Line) : Expression(Line);

internal sealed record ItemOf(Expression Target, Expression Key, int Line) : Expression(Line);

internal sealed record SliceOf(Expression Target, Expression? Start, Expression? Stop, Expression? Step, int Line) : Expression(Line);

internal sealed record Call(Expression Target, ArgumentList Arguments, int Line) : Expression(Line);

/// <summary><see cref="Input"/> is null for the filter of a block.</summary>
internal sealed record FilterCall(Expression? Input, string Filter, JinjaFunction Function, ArgumentList Arguments, int Line) : Expression(Line);

internal sealed record TestCall(Expression Input, JinjaFunction Function, ArgumentList Arguments, bool IsNegated, int Line) : Expression(Line);

internal sealed record ArgumentList(IReadOnlyList<Expression> Positional, IReadOnlyList<(string Name, Expression Value)> Named, Expression? Spread, Expression? NamedSpread)
{
    public static ArgumentList Empty { get; } = new([], [], null, null);
}

/// <summary>What an assignment or loop assigns to.</summary>
internal abstract record Target;

internal sealed record NameTarget(string Name) : Target;

internal sealed record NamespaceTarget(string Name, string Attribute) : Target;

internal sealed record TupleTarget(IReadOnlyList<Target> Items) : Target;

internal abstract record Statement(int Line) : JinjaNode(Line);

internal sealed record TextOutput(string Text, int Line) : Statement(Line);

internal sealed record Output(Expression Value, int Line) : Statement(Line);

internal sealed record If(IReadOnlyList<(Expression Test, IReadOnlyList<Statement> Body)> Branches, IReadOnlyList<Statement> Else, int Line) : Statement(Line);

internal sealed record For(Target Target, Expression Items, Expression? Filter, bool IsRecursive, IReadOnlyList<Statement> Body, IReadOnlyList<Statement> Else, int Line) : Statement(Line);

internal sealed record Assignment(Target Target, Expression Value, int Line) : Statement(Line);

internal sealed record BlockAssignment(Target Target, Expression? Filter, IReadOnlyList<Statement> Body, int Line) : Statement(Line);

internal sealed record MacroDefinition(string Name, IReadOnlyList<(string Name, Expression? Default)> Parameters, IReadOnlyList<Statement> Body, IReadOnlySet<string> Uses, int Line) : Statement(Line);

internal sealed record CallBlock(MacroDefinition Caller, Call Call, int Line) : Statement(Line);

/// <summary>Statements with names of their own: with, generation, and, where <see cref="Filter"/> is given, filter.</summary>
internal sealed record Scoped(IReadOnlyList<(Target Target, Expression Value)> Values, Expression? Filter, IReadOnlyList<Statement> Body, int Line) : Statement(Line);

internal sealed record Break(int Line) : Statement(Line);

internal sealed record Continue(int Line) : Statement(Line);
