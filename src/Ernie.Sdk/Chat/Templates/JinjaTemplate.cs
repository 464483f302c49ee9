using System.Numerics;
using System.Text.Json;
using Ernie.Sdk.Chat.Templates.Jinja;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>A checkpoint's own template. Texts of messages and tools stay marked as input through everything that the template does with them.</summary>
internal sealed class JinjaTemplate : ChatTemplate
{
    private static readonly string[] s_roles = ["system", "user", "assistant", "tool"];

    private readonly IReadOnlyList<Statement> _body;
    private readonly string _file;
    private readonly IReadOnlyDictionary<string, string> _specialTokens;

    private JinjaTemplate(string source, string file, IReadOnlyDictionary<string, string> specialTokens)
    {
        (_file, _specialTokens) = (file, specialTokens);
        _body = JinjaParser.Parse(source, out var names);
        IsThinking = source.Contains(ReasoningBegin, StringComparison.Ordinal) || source.Contains(CallBegin, StringComparison.Ordinal);
        TakesTools = names.Contains("tools");
    }

    public override bool IsThinking { get; }

    public override bool TakesTools { get; }

    /// <param name="source">The template's text.</param>
    /// <param name="file">Where it stands, for messages.</param>
    /// <param name="specialTokens">Variables such as <c>bos_token</c>.</param>
    /// <exception cref="InvalidDataException">The template is damaged.</exception>
    /// <exception cref="NotSupportedException">The template uses something of Jinja that this library does not run.</exception>
    public static JinjaTemplate Parse(string source, string file, IReadOnlyDictionary<string, string> specialTokens)
    {
        try
        {
            return new JinjaTemplate(source, file, specialTokens);
        }
        catch (JinjaException e) when (e.IsUnsupported)
        {
            throw new NotSupportedException(
                $"{file}, line {e.Line}: {e.Message} by this library's Jinja. Change the template, or choose ErnieChatTemplate.Standard or ErnieChatTemplate.Thinking.", e);
        }
        catch (JinjaException e)
        {
            throw new InvalidDataException($"{file}, line {e.Line}: {e.Message}. The chat template is damaged; copy it from the original checkpoint.", e);
        }
    }

    public override PromptText Render(IReadOnlyList<TemplateMessage> messages, IReadOnlyList<JsonElement>? tools = null, bool addGenerationPrompt = true)
    {
        var variables = new Dictionary<string, object?>(StringComparer.Ordinal)
        {
            ["messages"] = new JinjaList([.. messages.Select(Dict)]),
            ["tools"] = tools is { Count: > 0 } ? new JinjaList([.. tools.Select(static tool => PythonValue.FromJson(tool))]) : null,
            ["documents"] = null,
            ["add_generation_prompt"] = addGenerationPrompt,
        };
        foreach (var (name, token) in _specialTokens) variables[name] = (PromptText)token;
        try
        {
            return JinjaInterpreter.Render(_body, variables);
        }
        catch (JinjaException e)
        {
            // Mostly a message that the template refuses, as with raise_exception.
            throw new ArgumentException($"The chat template cannot render these messages: {e.Message} ({_file}, line {e.Line}).", nameof(messages), e);
        }
    }

    private static JinjaDict Dict(TemplateMessage message)
    {
        // The known roles are this library's words, which a template may build control tokens from.
        var dict = new JinjaDict { [(PromptText)"role"] = s_roles.Contains(message.Role) ? (PromptText)message.Role : PromptText.Input(message.Role) };
        if (message.Content is not null) dict[(PromptText)"content"] = PromptText.Input(message.Content);
        if (message.ReasoningContent is not null) dict[(PromptText)"reasoning_content"] = PromptText.Input(message.ReasoningContent);
        if (message.ToolCalls is { Count: > 0 } calls) dict[(PromptText)"tool_calls"] = new JinjaList([.. calls.Select(Dict)]);
        return dict;
    }

    private static JinjaDict Dict(TemplateToolCall call)
    {
        var function = new JinjaDict { [(PromptText)"name"] = PromptText.Input(call.Name) };
        if (call.Arguments.ValueKind != JsonValueKind.Undefined) function[(PromptText)"arguments"] = PythonValue.FromJson(call.Arguments);
        return new JinjaDict { [(PromptText)"type"] = (PromptText)"function", [(PromptText)"function"] = function };
    }
}
