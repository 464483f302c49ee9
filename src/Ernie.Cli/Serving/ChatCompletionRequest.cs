using System.Globalization;
using System.Text.Json;
using Ernie.Sdk;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Serving;

/// <summary>A request of <c>/v1/chat/completions</c>.</summary>
internal sealed record ChatCompletionRequest(IReadOnlyList<ChatMessage> Messages, ChatOptions Options, bool Streams, bool IncludesUsage, bool WantsProbabilities)
{
    /// <summary>OpenAI's limit.</summary>
    public const int MaxTopProbabilities = 20;

    public static ChatCompletionRequest From(RequestObject request, ErnieModel model)
    {
        CheckModel(request, model);
        var messages = ReadMessages(request);
        var options = new ChatOptions
        {
            Temperature = request.Number("temperature", 0, 2),
            TopP = request.Number("top_p", 0, 1),
            TopK = (int?)request.Integer("top_k", 0, int.MaxValue),
            FrequencyPenalty = request.Number("frequency_penalty", -2, 2),
            PresencePenalty = request.Number("presence_penalty", -2, 2),
            Seed = request.Integer("seed"),
            StopSequences = request.Texts("stop"),
            MaxOutputTokens = MaxTokens(request),
            AllowMultipleToolCalls = request.Flag("parallel_tool_calls"),
            ResponseFormat = FormatOf(request.Object("response_format")),
            ToolMode = ToolMode(request),
        };
        options.Tools = ReadTools(request);
        if (request.Text("reasoning_effort") is { } effort) options.Reasoning = new ReasoningOptions { Effort = EffortOf(request, effort) };
        foreach (var (name, least, most) in new[] { ("min_p", 0f, 1f), ("repetition_penalty", 1e-3f, 1000f) })
        {
            if (request.Number(name, least, most) is { } number) (options.AdditionalProperties ??= [])[name] = number;
        }
        var (streams, includesUsage) = ReadStream(request);
        RefuseCommon(request);
        if (ReadBias(request, model) is { } bias) (options.AdditionalProperties ??= [])["logit_bias"] = bias;
        var wantsProbabilities = request.Flag("logprobs") == true;
        var top = request.Integer("top_logprobs", 0, MaxTopProbabilities);
        if (top > 0 && !wantsProbabilities) throw new ApiException(StatusCodes.Status400BadRequest, "'top_logprobs' needs \"logprobs\": true.", "top_logprobs", "invalid_value");
        if (wantsProbabilities) ((options.AdditionalProperties ??= [])["logprobs"], options.AdditionalProperties["top_logprobs"]) = (true, (int)(top ?? 0));
        request.Only("modalities", "[\"text\"]");
        request.Accept("reasoning", "verbosity");
        request.Only("reasoning", "");
        request.Only("verbosity", "\"medium\"");
        request.End();
        return new ChatCompletionRequest(messages, options, streams, includesUsage, wantsProbabilities);
    }

    public static void CheckModel(RequestObject request, ErnieModel model)
    {
        if (request.Text("model") is { } wanted && wanted != model.ModelId)
            throw new ApiException(StatusCodes.Status404NotFound, $"There is no model '{wanted}' here; this server runs '{model.ModelId}'.", "model", "model_not_found");
    }

    /// <summary>What chat and text completions refuse alike, and what is a note to OpenAI's own service.</summary>
    public static void RefuseCommon(RequestObject request)
    {
        request.Only("n", "1");
        request.Accept("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention");
    }

    /// <summary>What is added to the logits of tokens, by id; null for nothing.</summary>
    public static Dictionary<int, float>? ReadBias(RequestObject request, ErnieModel model)
    {
        if (request.Object("logit_bias") is not { } biases) return null;
        var bias = new Dictionary<int, float>();
        foreach (var name in biases.Names)
        {
            if (!int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var id) || id >= model.VocabularySize)
                throw request.Wrong("logit_bias", $"an object with token ids between 0 and {model.VocabularySize - 1} as its names");
            bias[id] = biases.Number(name, -100, 100) ?? throw biases.Missing(name);
        }
        return bias;
    }

    public static (bool Streams, bool IncludesUsage) ReadStream(RequestObject request)
    {
        var streams = request.Flag("stream") == true;
        if (request.Object("stream_options") is not { } options) return (streams, false);
        if (!streams) throw new ApiException(StatusCodes.Status400BadRequest, "'stream_options' needs \"stream\": true.", "stream_options", "invalid_value");
        var includesUsage = options.Flag("include_usage") == true;
        options.Accept("include_obfuscation");
        options.End();
        return (streams, includesUsage);
    }

    /// <summary>Messages of a conversation; also those of <c>/tokenize</c>.</summary>
    public static List<ChatMessage> ReadMessages(RequestObject request)
    {
        var messages = request.Objects("messages") ?? throw request.Missing("messages");
        if (messages.Count == 0) throw request.Wrong("messages", "an array of at least one message");
        return [.. messages.Select(Message)];
    }

    private static ChatMessage Message(RequestObject message)
    {
        var role = message.RequiredText("role");
        var contents = new List<AIContent>();
        if (role == "assistant" && message.Text("reasoning_content") is { Length: > 0 } reasoning) contents.Add(new TextReasoningContent(reasoning));
        var parts = Parts(message);
        if (role == "tool")
        {
            contents.Add(new FunctionResultContent(message.RequiredText("tool_call_id"), string.Concat(parts ?? throw message.Missing("content"))));
        }
        else
        {
            contents.AddRange((parts ?? []).Select(static text => new TextContent(text)));
        }
        if (role == "assistant")
        {
            contents.AddRange((message.Objects("tool_calls") ?? []).Select(Call));
            // Fields that answers have and requests repeat; OpenAI's clients add what they read out of the text.
            message.Accept("annotations", "audio", "function_call", "parsed", "refusal");
            foreach (var name in new[] { "audio", "function_call", "refusal" }) message.Only(name, "");
        }
        else if (parts is null)
        {
            throw message.Missing("content");
        }
        if (parts is { Count: 0 } && contents.Count == 0) throw message.Wrong("content", "a string or an array of at least one part");
        var author = message.Text("name");
        message.End();
        return new ChatMessage(role switch
        {
            "system" or "developer" => ChatRole.System,
            "user" => ChatRole.User,
            "assistant" => ChatRole.Assistant,
            "tool" => ChatRole.Tool,
            _ => throw message.Wrong("role", "system, developer, user, assistant or tool"),
        }, contents) { AuthorName = author };
    }

    /// <summary>The texts of a message; null without content.</summary>
    private static List<string>? Parts(RequestObject message)
    {
        if (message.Take("content") is not { } content) return null;
        if (content.ValueKind == JsonValueKind.String) return [content.GetString()!];
        if (content.ValueKind != JsonValueKind.Array) throw message.Wrong("content", "a string or an array of parts");
        var texts = new List<string>();
        foreach (var part in message.Objects("content")!)
        {
            if (part.RequiredText("type") is var type && type != "text")
                throw new ApiException(StatusCodes.Status400BadRequest, $"'{part.PathOf("type")}' is '{type}': this model takes text only.", part.PathOf("type"), "unsupported");
            texts.Add(part.RequiredText("text"));
            part.End();
        }
        return texts;
    }

    private static FunctionCallContent Call(RequestObject call)
    {
        var id = call.RequiredText("id");
        call.Only("type", "\"function\"");
        call.Accept("index");
        var function = call.Object("function") ?? throw call.Missing("function");
        var (name, text) = (function.RequiredText("name"), function.RequiredText("arguments"));
        function.Accept("parsed_arguments");
        function.End();
        call.End();
        try
        {
            using var arguments = JsonDocument.Parse(text.Length == 0 ? "{}" : text);
            if (arguments.RootElement.ValueKind != JsonValueKind.Object) throw function.Wrong("arguments", "the text of a JSON object");
            if (RequestObject.UnreadableText(arguments.RootElement) is not null) throw function.Wrong("arguments", "the text of a JSON object without half of a surrogate pair");
            return new FunctionCallContent(id, name, arguments.RootElement.EnumerateObject().ToDictionary(static p => p.Name, static p => (object?)p.Value.Clone(), StringComparer.Ordinal));
        }
        catch (Exception e) when (e is JsonException or ArgumentException)
        {
            throw function.Wrong("arguments", "the text of a JSON object");
        }
    }

    private static int? MaxTokens(RequestObject request)
    {
        var (old, current) = (request.Integer("max_tokens", 1, int.MaxValue), request.Integer("max_completion_tokens", 1, int.MaxValue));
        if (old is not null && current is not null && old != current)
            throw new ApiException(StatusCodes.Status400BadRequest, "'max_tokens' and 'max_completion_tokens' are the same setting and differ here.", "max_tokens", "invalid_value");
        return (int?)(current ?? old);
    }

    private static ChatResponseFormat? FormatOf(RequestObject? format)
    {
        if (format is null) return null;
        var type = format.RequiredText("type");
        ChatResponseFormat result;
        switch (type)
        {
            case "text": result = ChatResponseFormat.Text; break;
            case "json_object": result = ChatResponseFormat.Json; break;
            case "json_schema":
                var named = format.Object("json_schema") ?? throw format.Missing("json_schema");
                result = ChatResponseFormat.ForJsonSchema(named.Take("schema") ?? throw named.Missing("schema"), named.Text("name"), named.Text("description"));
                // Answers follow the schema in either case.
                named.Flag("strict");
                named.End();
                break;
            default: throw format.Wrong("type", "text, json_object or json_schema");
        }
        format.End();
        return result;
    }

    private static List<AITool>? ReadTools(RequestObject request)
    {
        if (request.Objects("tools") is not { Count: > 0 } tools) return null;
        return [.. tools.Select(tool =>
        {
            if (tool.RequiredText("type") != "function") throw tool.Wrong("type", "function");
            var function = tool.Object("function") ?? throw tool.Missing("function");
            var parameters = function.Take("parameters");
            if (parameters is { ValueKind: not JsonValueKind.Object }) throw function.Wrong("parameters", "a JSON schema");
            using var none = JsonDocument.Parse("""{"type":"object","properties":{}}""");
            var declaration = AIFunctionFactory.CreateDeclaration(function.RequiredName("name"), function.Text("description") ?? "", parameters ?? none.RootElement.Clone());
            var isStrict = function.Flag("strict") == true;
            function.End();
            tool.End();
            return isStrict ? new StrictFunction(declaration) : declaration;
        })];
    }

    private static ChatToolMode? ToolMode(RequestObject request)
    {
        const string Expected = "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": …}}";
        if (request.Take("tool_choice") is not { } choice) return null;
        if (choice.ValueKind == JsonValueKind.Object)
        {
            var wanted = request.Object("tool_choice")!;
            wanted.Only("type", "\"function\"");
            var function = wanted.Object("function") ?? throw request.Wrong("tool_choice", Expected);
            var name = function.RequiredName("name");
            function.End();
            wanted.End();
            return ChatToolMode.RequireSpecific(name);
        }
        return (choice.ValueKind == JsonValueKind.String ? choice.GetString() : null) switch
        {
            "none" => ChatToolMode.None,
            "auto" => ChatToolMode.Auto,
            "required" => ChatToolMode.RequireAny,
            _ => throw request.Wrong("tool_choice", Expected),
        };
    }

    private static ReasoningEffort EffortOf(RequestObject request, string effort) => effort switch
    {
        "none" => ReasoningEffort.None,
        "low" => ReasoningEffort.Low,
        "medium" => ReasoningEffort.Medium,
        "high" => ReasoningEffort.High,
        "xhigh" => ReasoningEffort.ExtraHigh,
        _ => throw request.Wrong("reasoning_effort", "none, low, medium, high or xhigh"),
    };

    /// <summary>A function whose calls keep to its schema.</summary>
    private sealed class StrictFunction(AIFunctionDeclaration function) : AIFunctionDeclaration
    {
        public override string Name => function.Name;
        public override string Description => function.Description;
        public override JsonElement JsonSchema => function.JsonSchema;
        public override IReadOnlyDictionary<string, object?> AdditionalProperties { get; } = new Dictionary<string, object?> { ["strict"] = true };
    }
}
