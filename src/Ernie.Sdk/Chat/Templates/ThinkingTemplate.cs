using System.Text.Json;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>
/// The format of 21B-A3B-Thinking, reconstructed from Baidu's training code, as the model's own template was not available. Reasoning is kept in the
/// turns after the last user message and dropped in earlier ones; each tool result is a user turn of its own.
/// </summary>
internal sealed class ThinkingTemplate : ChatTemplate
{
    public override bool IsThinking => true;

    public override bool TakesTools => true;

    public override PromptText Render(IReadOnlyList<TemplateMessage> messages, IReadOnlyList<JsonElement>? tools = null, bool addGenerationPrompt = true)
    {
        if (messages.Count == 0) throw new ArgumentException("The conversation has no message; the thinking models' chat template needs one.", nameof(messages));
        var prompt = new PromptTextBuilder();
        AppendSystem(prompt, messages[0], tools);

        var lastUser = messages.Count - 1;
        while (lastUser >= 0 && messages[lastUser].Role != "user") lastUser--;
        for (var i = 0; i < messages.Count; i++)
        {
            var message = messages[i];
            switch (message.Role)
            {
                case "user": prompt.Append(TurnBegin + "user\n").AppendInput(ContentOf(message, i)).Append(TurnEnd + "\n\n"); break;
                case "assistant": AppendAssistant(prompt, message, withReasoning: i > lastUser); break;
                case "tool":
                    prompt.Append(TurnBegin + "user\n<tool_response>\n").AppendInput(ContentOf(message, i)).Append("\n</tool_response>" + TurnEnd + "\n\n");
                    break;
            }
        }
        return prompt.Append(TurnBegin + "assistant\n<think>\n").Build();
    }

    private static void AppendSystem(PromptTextBuilder prompt, TemplateMessage first, IReadOnlyList<JsonElement>? tools)
    {
        prompt.Append(TurnBegin + "system\n");
        if (first.Role == "system") prompt.Append("<system_setting>\n").AppendInput(ContentOf(first, 0)).Append("\n</system_setting>\n\n");
        prompt.Append("<global_setting>\nthink_mode=True\n</global_setting>");
        if (tools is { Count: > 0 })
        {
            prompt.Append("\n\n<tool_list>\n[");
            for (var i = 0; i < tools.Count; i++) prompt.Append(i > 0 ? ", " : "").AppendInput(PythonJson.Serialize(tools[i]));
            prompt.Append("]\n</tool_list>");
        }
        prompt.Append(TurnEnd + "\n\n");
    }

    private static void AppendAssistant(PromptTextBuilder prompt, TemplateMessage message, bool withReasoning)
    {
        var (reasoning, content) = Split(message);
        prompt.Append(TurnBegin + "assistant\n");
        if (withReasoning) prompt.Append("<think>\n").AppendInput(reasoning.Trim('\n')).Append("\n</think>\n");
        if (content.Length > 0) prompt.Append("<response>\n").AppendInput(content).Append("\n</response>\n");
        foreach (var call in message.ToolCalls ?? [])
        {
            var arguments = call.Arguments.ValueKind == JsonValueKind.String ? call.Arguments.GetString()! : PythonJson.Serialize(call.Arguments);
            prompt.Append("\n<tool_call>\n{\"name\": ").AppendInput(PythonJson.Serialize(call.Name))
                .Append(", \"arguments\": ").AppendInput(arguments).Append("}\n</tool_call>\n");
        }
        prompt.Append(TurnEnd + "\n\n");
    }

    /// <summary>Reasoning of its own wins; otherwise what stands before the content's last closing tag is taken for it.</summary>
    private static (string Reasoning, string Content) Split(TemplateMessage message)
    {
        var content = message.Content ?? "";
        if (message.ReasoningContent is { } own) return (own, content);
        var parts = content.Split("</think>");
        return parts.Length == 1 ? ("", content) : (parts[0].Split("<think>")[^1], parts[^1].TrimStart('\n'));
    }
}
