using System.Text.Json;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>The format of the models that do not think (0.3B, 21B-A3B, 300B-A47B): lines of User and Assistant. Exact.</summary>
internal sealed class StandardTemplate(string begin = ChatTemplate.SentenceBegin, string end = ChatTemplate.SentenceEnd) : ChatTemplate
{
    public override bool IsThinking => false;

    public override bool TakesTools => false;

    public override PromptText Render(IReadOnlyList<TemplateMessage> messages, IReadOnlyList<JsonElement>? tools = null, bool addGenerationPrompt = true)
    {
        var prompt = new PromptTextBuilder().Append(begin);
        for (var i = 0; i < messages.Count; i++)
        {
            var message = messages[i];
            switch (message.Role)
            {
                case "system": prompt.AppendInput(ContentOf(message, i)).Append("\n"); break;
                case "user": prompt.Append("User: ").AppendInput(ContentOf(message, i)).Append("\n"); break;
                case "assistant": prompt.Append("Assistant: ").AppendInput(ContentOf(message, i)).Append(end); break;
            }
        }
        if (addGenerationPrompt) prompt.Append("Assistant: ");
        return prompt.Build();
    }
}
