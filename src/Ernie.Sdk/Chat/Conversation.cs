using System.Text;
using System.Text.Json;
using Ernie.Sdk.Chat.Templates;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>Converts messages into those that templates know. Messages without contents are left out.</summary>
internal static class Conversation
{
    /// <exception cref="NotSupportedException">A message holds something that the template has no place for.</exception>
    public static List<TemplateMessage> From(IEnumerable<ChatMessage> messages, ChatTemplate template)
    {
        var conversation = new List<TemplateMessage>();
        var calls = new List<string>();
        foreach (var message in messages)
        {
            if (message is null) throw new ArgumentException("A message is null.", nameof(messages));
            if (message.Role != ChatRole.System && message.Role != ChatRole.User && message.Role != ChatRole.Assistant && message.Role != ChatRole.Tool)
                throw new NotSupportedException($"Role '{message.Role}' is not supported; use system, user, assistant or tool.");
            if (message.Role == ChatRole.Tool)
            {
                if (!template.TakesTools) throw new NotSupportedException("The chat template of this model has no place for results of tools. " + ChatTemplate.ForTools);
                AddResults(conversation, message, calls);
            }
            else if (message.Contents.Count > 0)
            {
                conversation.Add(Convert(message, template));
                calls = [.. message.Contents.OfType<FunctionCallContent>().Select(static call => call.CallId)];
            }
        }
        return conversation;
    }

    private static TemplateMessage Convert(ChatMessage message, ChatTemplate template)
    {
        StringBuilder text = new(), reasoning = new();
        var calls = new List<TemplateToolCall>();
        foreach (var content in message.Contents)
        {
            switch (content)
            {
                case TextReasoningContent thought:
                    reasoning.Append(thought.Text);
                    break;
                case TextContent part:
                    text.Append(part.Text);
                    break;
                case FunctionCallContent call when message.Role == ChatRole.Assistant:
                    if (!template.TakesTools) throw new NotSupportedException("The chat template of this model has no place for calls of tools. " + ChatTemplate.ForTools);
                    calls.Add(new TemplateToolCall(call.Name, Serialize(call.Arguments ?? new Dictionary<string, object?>())));
                    break;
                case UsageContent or ErrorContent:
                    break;
                default:
                    throw new NotSupportedException($"A {message.Role} message holds {content?.GetType().Name ?? "null"}; this model takes text, and tools where its template knows them.");
            }
        }
        return new TemplateMessage(message.Role.Value, text.ToString(), reasoning.Length > 0 ? reasoning.ToString() : null, calls);
    }

    /// <summary>The models know results by their order only, which is that of the calls.</summary>
    private static void AddResults(List<TemplateMessage> conversation, ChatMessage message, List<string> calls)
    {
        var results = message.Contents.Select(static content => content as FunctionResultContent
            ?? throw new NotSupportedException($"A tool message holds {content?.GetType().Name ?? "null"}; it takes FunctionResultContent.")).ToList();
        foreach (var result in results.OrderBy(result => calls.IndexOf(result.CallId) is var at and >= 0 ? at : int.MaxValue)) conversation.Add(new TemplateMessage("tool", Text(result)));
    }

    private static string Text(FunctionResultContent result) => result.Result switch
    {
        null => result.Exception is { } failure ? $"Error: {failure.Message}" : "",
        string text => text,
        TextContent text => text.Text,
        IEnumerable<AIContent> contents => string.Concat(contents.Select(static content => content is TextContent text
            ? text.Text
            : throw new NotSupportedException($"The result of a tool holds {content?.GetType().Name ?? "null"}; this model takes text."))),
        JsonElement json => Text(json),
        var value => Text(Serialize(value)),
    };

    private static string Text(JsonElement json) => json.ValueKind == JsonValueKind.String ? PythonJson.TextOf(json) : PythonJson.Serialize(json);

    private static JsonElement Serialize(object value)
    {
        var type = value is IDictionary<string, object?> ? typeof(IDictionary<string, object?>) : value.GetType();
        return JsonSerializer.SerializeToElement(value, AIJsonUtilities.DefaultOptions.GetTypeInfo(type));
    }
}
