using System.Globalization;
using System.Text.Json;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Chat.Templates;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>What a caller's messages and options come to: a conversation for the template, and how to generate. Holds no reference to what the caller passed.</summary>
internal sealed record ChatRequest(IReadOnlyList<TemplateMessage> Messages, ErnieGenerationOptions Generation)
{
    private const int MaximumTopProbabilities = 20;

    private static readonly JsonElement s_anything = JsonElement.Parse("true");
    private static readonly string[] s_properties = ["min_p", "repetition_penalty", "logit_bias", "bad_words", "logprobs", "top_logprobs", "stream_options", "max_updates_per_second"];

    public IReadOnlyList<string> StopSequences { get; init; } = [];

    /// <summary>Tools that the model is told of, in the OpenAI format; null where it may call none.</summary>
    public IReadOnlyList<JsonElement>? Tools { get; init; }

    /// <summary>Names of those tools.</summary>
    public IReadOnlyList<string> ToolNames { get; init; } = [];

    public bool AllowsMultipleCalls { get; init; } = true;

    public bool HidesReasoning { get; init; }

    /// <summary>Texts and ids of tokens that the answer must not have; null where there are none.</summary>
    public ForbiddenWords? Forbidden { get; init; }

    /// <summary>How many of the likeliest tokens are told beside each that is chosen; null where no probabilities are.</summary>
    public int? TopProbabilities { get; init; }

    /// <summary>What the answer must be; null where it may be any text or calls.</summary>
    public OutputGrammar? Output { get; init; }

    /// <exception cref="NotSupportedException">An option or content asks for something that this version or model does not do.</exception>
    public static ChatRequest From(IEnumerable<ChatMessage> messages, ChatOptions? options, IChatClient client, string modelId, ChatTemplate template, bool takesLateSystem)
    {
        var conversation = Conversation.From(messages, template);
        if (!takesLateSystem) GatherSystemTexts(conversation);
        if (!string.IsNullOrEmpty(options?.Instructions)) Instruct(conversation, options.Instructions);
        if (conversation.Count == 0) throw new ArgumentException("There are no messages.", nameof(messages));
        if (options is null) return new ChatRequest(conversation, new ErnieGenerationOptions());
        Refuse(options, modelId);
        string[] stops = [.. options.StopSequences ?? []];
        if (Array.Exists(stops, static s => s is null)) throw new ArgumentException("ChatOptions.StopSequences holds a null.", nameof(options));
        var generation = Resolve(options, client, template);
        var forbidden = BadWords(options);
        var output = OutputOf(options, template) is { } wanted ? wanted with { Forbidden = forbidden } : null;
        // Without it a call of something else is an error that says so.
        if (output is { IsText: true } && !OutputGrammar.CanForbid(forbidden) && !Array.Exists(Functions(options), IsStrict)) output = null;
        if (output is { IsText: false } && generation.IgnoreStopTokens) throw new ArgumentException("IgnoreStopTokens cannot be had with ChatOptions.ResponseFormat or a required tool call: what is complete must end.", nameof(options));
        return new ChatRequest(conversation, generation)
        {
            Forbidden = forbidden,
            TopProbabilities = TopProbabilitiesOf(options),
            Output = output,
            StopSequences = stops,
            Tools = ToolsOf(options, template),
            ToolNames = [.. Functions(options).Select(static tool => tool.Name)],
            AllowsMultipleCalls = options.AllowMultipleToolCalls != false,
            HidesReasoning = options.Reasoning?.Output == ReasoningOutput.None,
        };
    }

    /// <summary>The caller's own options, where given; <see cref="ChatOptions"/> fills what they leave open.</summary>
    private static ErnieGenerationOptions Resolve(ChatOptions options, IChatClient client, ChatTemplate template)
    {
        var resolved = (options.RawRepresentationFactory?.Invoke(client) as ErnieGenerationOptions)?.Snapshot() ?? new ErnieGenerationOptions();
        if (resolved.MaxReasoningTokens < 0) throw new ArgumentOutOfRangeException(nameof(options), resolved.MaxReasoningTokens, "MaxReasoningTokens must not be negative.");
        if (resolved.MaxTokens is null && options.MaxOutputTokens is < 1) throw new ArgumentOutOfRangeException(nameof(options), options.MaxOutputTokens, "ChatOptions.MaxOutputTokens must be at least 1.");
        resolved.MaxTokens ??= options.MaxOutputTokens;
        resolved.Temperature ??= options.Temperature;
        resolved.TopK ??= options.TopK;
        resolved.TopP ??= options.TopP;
        resolved.MinP ??= Number(options, "min_p");
        resolved.RepetitionPenalty ??= Number(options, "repetition_penalty");
        resolved.FrequencyPenalty ??= options.FrequencyPenalty;
        resolved.PresencePenalty ??= options.PresencePenalty;
        resolved.LogitBias ??= LogitBias(options);
        resolved.Seed ??= options.Seed;
        resolved.MaxReasoningTokens ??= ReasoningBudget(options.Reasoning, template);
        resolved.MaxUpdatesPerSecond ??= Number(options, "max_updates_per_second");
        if (resolved.MaxUpdatesPerSecond is not (null or (>= 0.001f and <= 1000))) throw new ArgumentOutOfRangeException(nameof(options), resolved.MaxUpdatesPerSecond, "MaxUpdatesPerSecond must lie between 0.001 and 1,000.");
        return resolved;
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

    private static object? Property(ChatOptions options, string name) => options.AdditionalProperties?.TryGetValue(name, out var value) == true ? value : null;

    /// <summary>An additional property as JSON, in which dictionaries and lists of all types look alike.</summary>
    private static JsonElement? Json(ChatOptions options, string name, string expected)
    {
        try
        {
            return Property(options, name) switch
            {
                null => null,
                JsonElement json => json,
                var value => JsonSerializer.SerializeToElement(value, AIJsonUtilities.DefaultOptions.GetTypeInfo(value.GetType())),
            };
        }
        catch (Exception e) when (e is NotSupportedException or InvalidOperationException)
        {
            throw Invalid(name, expected, e);
        }
    }

    private static Dictionary<int, float>? LogitBias(ChatOptions options)
    {
        const string Expected = "map ids of tokens to numbers";
        if (Json(options, "logit_bias", Expected) is not { } json) return null;
        if (json.ValueKind != JsonValueKind.Object) throw Invalid("logit_bias", Expected);
        var biases = new Dictionary<int, float>();
        foreach (var property in json.EnumerateObject())
        {
            if (!int.TryParse(property.Name, NumberStyles.None, CultureInfo.InvariantCulture, out var id) || property.Value.ValueKind != JsonValueKind.Number) throw Invalid("logit_bias", Expected);
            biases[id] = property.Value.GetSingle();
        }
        return biases;
    }

    private static ForbiddenWords? BadWords(ChatOptions options)
    {
        const string Expected = "be a list of texts, which are not empty, and ids of tokens";
        if (Json(options, "bad_words", Expected) is not { } json) return null;
        if (json.ValueKind != JsonValueKind.Array) throw Invalid("bad_words", Expected);
        var (texts, tokens) = (new List<string>(), new List<int>());
        foreach (var word in json.EnumerateArray())
        {
            if (word.ValueKind == JsonValueKind.String && word.GetString() is { Length: > 0 } text) texts.Add(text);
            else if (word.ValueKind == JsonValueKind.Number && word.TryGetInt32(out var id) && id >= 0) tokens.Add(id);
            else throw Invalid("bad_words", Expected);
        }
        return texts.Count + tokens.Count > 0 ? new ForbiddenWords(texts, tokens) : null;
    }

    private static int? TopProbabilitiesOf(ChatOptions options)
    {
        var isAsked = Json(options, "logprobs", "be true or false") is { } asked ? asked.ValueKind switch { JsonValueKind.True => true, JsonValueKind.False => false, _ => throw Invalid("logprobs", "be true or false") } : (bool?)null;
        var expected = $"be a whole number from 0 to {MaximumTopProbabilities}, with 'logprobs' true";
        if (Json(options, "top_logprobs", expected) is not { } json) return isAsked == true ? 0 : null;
        return json.ValueKind == JsonValueKind.Number && json.TryGetInt32(out var top) && top is >= 0 and <= MaximumTopProbabilities && isAsked == true ? top : throw Invalid("top_logprobs", expected);
    }

    /// <summary>Clients of several providers ask for usage in OpenAI's words. Streams always end with it.</summary>
    private static void CheckStreamOptions(ChatOptions options)
    {
        const string Expected = "be an object with 'include_usage' alone, which is true: streams always end with their usage";
        if (Json(options, "stream_options", Expected) is not { } json) return;
        if (json.ValueKind != JsonValueKind.Object || json.EnumerateObject().Any(static p => p.Name != "include_usage" || p.Value.ValueKind != JsonValueKind.True)) throw Invalid("stream_options", Expected);
    }

#pragma warning disable CA2208 // The parameter is that of the public method, which every caller has under this name.
    private static ArgumentException Invalid(string name, string expected, Exception? inner = null) => new($"Additional property '{name}' must {expected}.", "options", inner);
#pragma warning restore CA2208

    private static void Refuse(ChatOptions options, string modelId)
    {
        if (options.ModelId is { } wanted && wanted != modelId) throw new ArgumentException($"This client runs '{modelId}', the options ask for '{wanted}'.", nameof(options));
        if (options.ResponseFormat is not (null or ChatResponseFormatText or ChatResponseFormatJson)) throw new NotSupportedException($"ChatOptions.ResponseFormat: a {options.ResponseFormat.GetType().Name} is not supported. Use Text, Json or ForJsonSchema.");
        if (options.ToolMode is RequiredChatToolMode && options.Tools is not { Count: > 0 }) throw new ArgumentException("ChatOptions.ToolMode requires a tool call, but ChatOptions.Tools is empty.", nameof(options));
        if (options.ConversationId is not null) throw new NotSupportedException("ChatOptions.ConversationId: conversations are not kept by this version. Send all messages.");
        if (options.ContinuationToken is not null) throw new NotSupportedException("ChatOptions.ContinuationToken: background responses are not supported.");
        foreach (var name in options.AdditionalProperties?.Keys ?? [])
        {
            if (!s_properties.Contains(name)) throw new NotSupportedException($"ChatOptions.AdditionalProperties: '{name}' is unknown. Known are {string.Join(", ", s_properties)}; RawRepresentationFactory takes an ErnieGenerationOptions with more.");
        }
        CheckStreamOptions(options);
    }

    private static List<JsonElement>? ToolsOf(ChatOptions options, ChatTemplate template)
    {
        if (options.Tools is not { Count: > 0 } tools || options.ToolMode is NoneChatToolMode) return null;
        if (!template.TakesTools) throw new NotSupportedException("ChatOptions.Tools: the chat template of this model has no place for tools. " + ChatTemplate.ForTools + " Otherwise leave Tools empty, or set ToolMode to None.");
        return [.. tools.Select(static tool => tool is AIFunctionDeclaration function ? Describe(function) : throw new NotSupportedException($"ChatOptions.Tools: a {tool?.GetType().Name ?? "null"} is not supported; tools are functions (AIFunctionDeclaration)."))];
    }

    private static AIFunctionDeclaration[] Functions(ChatOptions options) => [.. options.Tools?.OfType<AIFunctionDeclaration>() ?? []];

    /// <summary>
    /// A required call leaves no place for a document; where tools may be called or not, either can come. Without a document, text is free, and of a call the arguments of tools that are not strict; only tools that are there can be called.
    /// </summary>
    private static OutputGrammar? OutputOf(ChatOptions options, ChatTemplate template)
    {
        var required = options.ToolMode as RequiredChatToolMode;
        var format = options.ResponseFormat as ChatResponseFormatJson;
        var functions = options.ToolMode is NoneChatToolMode ? [] : Functions(options);
        if (required is null && format is null)
        {
            if (!template.IsThinking || functions.Length == 0) return null;
            return new OutputGrammar(false, null, [.. functions.Select(static tool => (tool.Name, IsStrict(tool) ? tool.JsonSchema : s_anything))], options.AllowMultipleToolCalls != false) { IsText = true };
        }
        var tools = Array.ConvertAll(functions, static tool => (tool.Name, tool.JsonSchema));
        if (required?.RequiredFunctionName is { } name)
        {
            tools = Array.FindAll(tools, tool => tool.Name == name);
            if (tools.Length == 0) throw new ArgumentException($"ChatOptions.ToolMode requires a call of '{name}', which is not among ChatOptions.Tools.", nameof(options));
        }
        return new OutputGrammar(required is null, format?.Schema, tools, options.AllowMultipleToolCalls != false);
    }

    /// <summary>As the client of OpenAI's services for the same interface reads it.</summary>
    private static bool IsStrict(AIFunctionDeclaration function) =>
        function.AdditionalProperties.Any(static p => string.Equals(p.Key, "strict", StringComparison.OrdinalIgnoreCase) && p.Value is (true or JsonElement { ValueKind: JsonValueKind.True }));

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

    private static int? ReasoningBudget(ReasoningOptions? reasoning, ChatTemplate template)
    {
        if (reasoning?.Output == ReasoningOutput.Summary) throw new NotSupportedException("ChatOptions.Reasoning.Output: summaries are not supported. Use Full or None.");
        if (reasoning?.Effort is not { } effort) return null;
        if (effort != ReasoningEffort.None && !template.IsThinking) throw new NotSupportedException($"ChatOptions.Reasoning.Effort: the chat template of this model has no place for reasoning; {effort} cannot be had. {ChatTemplate.ForTools} Otherwise use None.");
        return effort switch { ReasoningEffort.None => 0, ReasoningEffort.Low => 1024, ReasoningEffort.Medium => 4096, ReasoningEffort.High => 16384, _ => null };
    }

    /// <summary>What is said late, as a request to sum up a conversation is, must not get lost.</summary>
    private static void GatherSystemTexts(List<TemplateMessage> conversation)
    {
        if (conversation.FindLastIndex(static message => message.Role == "system") < 1) return;
        var text = string.Join('\n', conversation.Where(static message => message.Role == "system").Select(static message => message.Content));
        conversation.RemoveAll(static message => message.Role == "system");
        conversation.Insert(0, new TemplateMessage("system", text));
    }

    private static void Instruct(List<TemplateMessage> conversation, string instructions)
    {
        if (conversation is [{ Role: "system" } first, ..]) conversation[0] = first with { Content = $"{instructions}\n{first.Content}" };
        else conversation.Insert(0, new TemplateMessage("system", instructions));
    }
}
