using System.Globalization;
using System.Text;
using Ernie.Sdk.Chat.Templates;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>What a caller's messages and options come to: a conversation for the template, and how to generate. Holds no reference to what the caller passed.</summary>
internal sealed record ChatRequest(IReadOnlyList<TemplateMessage> Messages, ErnieGenerationOptions Generation, IReadOnlyList<string> StopSequences)
{
    /// <exception cref="NotSupportedException">An option or content asks for something this version does not do.</exception>
    public static ChatRequest From(IEnumerable<ChatMessage> messages, ChatOptions? options, IChatClient client, string modelId)
    {
        var conversation = messages.Select(Convert).ToList();
        if (!string.IsNullOrEmpty(options?.Instructions)) Instruct(conversation, options.Instructions);
        if (conversation.Count == 0) throw new ArgumentException("There are no messages.", nameof(messages));
        if (options is not null) RefuseUnsupported(options, modelId);
        string[] stops = [.. options?.StopSequences ?? []];
        if (Array.Exists(stops, static s => s is null)) throw new ArgumentException("ChatOptions.StopSequences holds a null.", nameof(options));
        return new ChatRequest(conversation, Resolve(options, client), stops);
    }

    /// <summary>The caller's own options, where given; <see cref="ChatOptions"/> fills what they leave open.</summary>
    private static ErnieGenerationOptions Resolve(ChatOptions? options, IChatClient client)
    {
        if (options is null) return new ErnieGenerationOptions();
        var own = options.RawRepresentationFactory?.Invoke(client) as ErnieGenerationOptions ?? new ErnieGenerationOptions();
        return new ErnieGenerationOptions
        {
            MaxTokens = own.MaxTokens ?? options.MaxOutputTokens,
            Temperature = own.Temperature ?? options.Temperature,
            TopK = own.TopK ?? options.TopK,
            TopP = own.TopP ?? options.TopP,
            MinP = own.MinP ?? Number(options, "min_p"),
            RepetitionPenalty = own.RepetitionPenalty ?? Number(options, "repetition_penalty"),
            FrequencyPenalty = own.FrequencyPenalty ?? options.FrequencyPenalty,
            PresencePenalty = own.PresencePenalty ?? options.PresencePenalty,
            Seed = own.Seed ?? options.Seed,
            IgnoreStopTokens = own.IgnoreStopTokens,
        };
    }

    private static float? Number(ChatOptions options, string name)
    {
        if (options.AdditionalProperties?.TryGetValue(name, out var value) != true || value is null) return null;
        try
        {
            return value switch
            {
                System.Text.Json.JsonElement json => json.GetSingle(),
                string text => float.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture),
                bool => throw new InvalidCastException(),
                _ => System.Convert.ToSingle(value, CultureInfo.InvariantCulture),
            };
        }
        catch (Exception e) when (e is FormatException or InvalidCastException or OverflowException or InvalidOperationException)
        {
            throw new ArgumentException($"Additional property '{name}' must be a number, it is '{value}'.", nameof(options), e);
        }
    }

    private static void RefuseUnsupported(ChatOptions options, string modelId)
    {
        if (options.ModelId is { } wanted && wanted != modelId) throw new ArgumentException($"This client runs '{modelId}', the options ask for '{wanted}'.", nameof(options));
        if (options.ResponseFormat is ChatResponseFormatJson) throw new NotSupportedException("ChatOptions.ResponseFormat: only text is supported by this version.");
        if (options.Tools is { Count: > 0 } && options.ToolMode is not NoneChatToolMode) throw new NotSupportedException("ChatOptions.Tools: tools are not supported by this version. Leave Tools empty or set ToolMode to None.");
        if (options.ConversationId is not null) throw new NotSupportedException("ChatOptions.ConversationId: conversations are not kept by this version. Send all messages.");
        if (options.ContinuationToken is not null) throw new NotSupportedException("ChatOptions.ContinuationToken: background responses are not supported.");
        if (options.Reasoning is not null) throw new NotSupportedException("ChatOptions.Reasoning: reasoning options are not supported by this version.");
    }

    private static void Instruct(List<TemplateMessage> conversation, string instructions)
    {
        if (conversation is [{ Role: "system" } first, ..]) conversation[0] = first with { Content = $"{instructions}\n{first.Content}" };
        else conversation.Insert(0, new TemplateMessage("system", instructions));
    }

    private static TemplateMessage Convert(ChatMessage message)
    {
        if (message is null) throw new ArgumentException("A message is null.", nameof(message));
        StringBuilder text = new(), reasoning = new();
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
                case UsageContent or ErrorContent:
                    break;
                default:
                    throw new NotSupportedException($"A {message.Role} message holds {content.GetType().Name}; this version takes text.");
            }
        }
        if (message.Role != ChatRole.System && message.Role != ChatRole.User && message.Role != ChatRole.Assistant)
            throw new NotSupportedException($"Role '{message.Role}' is not supported by this version; use system, user or assistant.");
        return new TemplateMessage(message.Role.Value, text.ToString(), reasoning.Length > 0 ? reasoning.ToString() : null);
    }
}
