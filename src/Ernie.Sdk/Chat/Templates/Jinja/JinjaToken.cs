namespace Ernie.Sdk.Chat.Templates.Jinja;

internal enum JinjaTokenKind { Data, VariableBegin, VariableEnd, BlockBegin, BlockEnd, Name, String, Integer, Float, Operator, End }

/// <param name="Kind">The kind.</param>
/// <param name="Text">Data, name, operator, or number as written; a string's value.</param>
/// <param name="Line">From 1.</param>
internal readonly record struct JinjaToken(JinjaTokenKind Kind, string Text, int Line)
{
    public bool Is(string op) => Kind == JinjaTokenKind.Operator && Text == op;

    public bool IsName(string name) => Kind == JinjaTokenKind.Name && Text == name;

    public override string ToString() => Kind switch
    {
        JinjaTokenKind.End => "the end of the template",
        JinjaTokenKind.VariableEnd => "'}}'",
        JinjaTokenKind.BlockEnd => "'%}'",
        JinjaTokenKind.Data => "text",
        JinjaTokenKind.String => "a string",
        _ => $"'{Text}'",
    };
}
