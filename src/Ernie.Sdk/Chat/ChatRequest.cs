using System.Globalization;
using System.Text.Json;
using Ernie.Sdk.Chat.Templates;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>What a caller's messages and options come to: a conversation for the template, and how to generate. Holds no reference to what the caller passed.</summary>
internal sealed record ChatRequest(IReadOnlyList<TemplateMessage> Messages, ErnieGenerationOptions Generation)
{
    private static readonly string[] s_properties = ["min_p", "repetition_penalty"];

    public IReadOnlyList<string> StopSequences { get; init; } = [];

    /// <summary>Tools that the model is told of, in the OpenAI format; null where it may call none.</summary>
    public IReadOnlyList<JsonElement>? Tools { get; init; }

    public bool AllowsMultipleCalls { get; init; } = true;

    /// <summary>Whether a thinking model shall answer at once.</summary>
    public bool SkipsReasoning { get; init; }

    public bool HidesReasoning { get; init; }

    /// <exception cref="NotSupportedException">An option or content asks for something that this version or model does not do.</exception>
    public static ChatRequest From(IEnumerable<ChatMessage> messages, ChatOptions? options, IChatClient client, string modelId, ChatTemplate template)
    {
        var conversation = Conversation.From(messages, template);
        if (!string.IsNullOrEmpty(options?.Instructions)) Instruct(conversation, options.Instructions);
        if (conversation.Count == 0) throw new ArgumentException("There are no messages.", nameof(messages));
        if (options is null) return new ChatRequest(conversation, new ErnieGenerationOptions());
        Refuse(options, modelId);
        string[] stops = [.. options.StopSequences ?? []];
        if (Array.Exists(stops, static s => s is null)) throw new ArgumentException("ChatOptions.StopSequences holds a null.", nameof(options));
        return new ChatRequest(conversation, Resolve(options, client))
        {
            StopSequences = stops,
            Tools = ToolsOf(options, template),
            AllowsMultipleCalls = options.AllowMultipleToolCalls != false,
            SkipsReasoning = IsReasoningOff(options.Reasoning, template),
            HidesReasoning = options.Reasoning?.Output == ReasoningOutput.None,
        };
    }

    /// <summary>The caller's own options, where given; <see cref="ChatOptions"/> fills what they leave open.</summary>
    private static ErnieGenerationOptions Resolve(ChatOptions options, IChatClient client)
    {
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
                JsonElement json => json.GetSingle(),
                string text => float.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture),
                bool => throw new InvalidCastException(),
                _ => Convert.ToSingle(value, CultureInfo.InvariantCulture),
            };
        }
        catch (Exception e) when (e is FormatException or InvalidCastException or OverflowException or InvalidOperationException)
        {
            throw new ArgumentException($"Additional property '{name}' must be a number, it is '{value}'.", nameof(options), e);
        }
    }

    private static void Refuse(ChatOptions options, string modelId)
    {
        if (options.ModelId is { } wanted && wanted != modelId) throw new ArgumentException($"This client runs '{modelId}', the options ask for '{wanted}'.", nameof(options));
        if (options.ResponseFormat is not (null or ChatResponseFormatText)) throw new NotSupportedException("ChatOptions.ResponseFormat: only text is supported by this version.");
        if (options.ToolMode is RequiredChatToolMode) throw new NotSupportedException("ChatOptions.ToolMode: a required tool call is not supported by this version. Use Auto or None.");
        if (options.ConversationId is not null) throw new NotSupportedException("ChatOptions.ConversationId: conversations are not kept by this version. Send all messages.");
        if (options.ContinuationToken is not null) throw new NotSupportedException("ChatOptions.ContinuationToken: background responses are not supported.");
        foreach (var name in options.AdditionalProperties?.Keys ?? [])
        {
            if (!s_properties.Contains(name)) throw new NotSupportedException($"ChatOptions.AdditionalProperties: '{name}' is unknown. Known are {string.Join(", ", s_properties)}; RawRepresentationFactory takes an ErnieGenerationOptions with more.");
        }
    }

    private static List<JsonElement>? ToolsOf(ChatOptions options, ChatTemplate template)
    {
        if (options.Tools is not { Count: > 0 } tools || options.ToolMode is NoneChatToolMode) return null;
        if (!template.TakesTools) throw new NotSupportedException("ChatOptions.Tools: the chat template of this model has no place for tools. Leave Tools empty or set ToolMode to None.");
        return [.. tools.Select(static tool => tool is AIFunctionDeclaration function ? Describe(function) : throw new NotSupportedException($"ChatOptions.Tools: a {tool?.GetType().Name ?? "null"} is not supported; tools are functions (AIFunctionDeclaration)."))];
    }

    private static JsonElement Describe(AIFunctionDeclaration function)
    {
        using var json = new MemoryStream();
        using (var writer = new Utf8JsonWriter(json))
        {
            writer.WriteStartObject();
            writer.WriteString("type", "function");
            writer.WriteStartObject("function");
            writer.WriteString("name", function.Name);
            if (!string.IsNullOrEmpty(function.Description)) writer.WriteString("description", function.Description);
            writer.WritePropertyName("parameters");
            function.JsonSchema.WriteTo(writer);
            writer.WriteEndObject();
            writer.WriteEndObject();
        }
        using var document = JsonDocument.Parse(json.GetBuffer().AsMemory(0, (int)json.Length));
        return document.RootElement.Clone();
    }

    /// <summary>No reasoning and as much as the model takes can be had exactly; the efforts between would need a budget.</summary>
    private static bool IsReasoningOff(ReasoningOptions? reasoning, ChatTemplate template)
    {
        if (reasoning?.Output == ReasoningOutput.Summary) throw new NotSupportedException("ChatOptions.Reasoning.Output: summaries are not supported. Use Full or None.");
        if (reasoning?.Effort is not { } effort || effort == ReasoningEffort.None) return reasoning?.Effort is not null;
        if (!template.IsThinking) throw new NotSupportedException($"ChatOptions.Reasoning.Effort: this model does not reason; {effort} cannot be had. Use None.");
        return effort == ReasoningEffort.ExtraHigh ? false : throw new NotSupportedException($"ChatOptions.Reasoning.Effort: {effort} is not supported by this version. Use None, or ExtraHigh for as much as the model takes.");
    }

    private static void Instruct(List<TemplateMessage> conversation, string instructions)
    {
        if (conversation is [{ Role: "system" } first, ..]) conversation[0] = first with { Content = $"{instructions}\n{first.Content}" };
        else conversation.Insert(0, new TemplateMessage("system", instructions));
    }
}
