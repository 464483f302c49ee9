using System.Text;
using System.Text.Json;
using Ernie.Sdk;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Serving;

/// <summary><c>POST /v1/chat/completions</c>.</summary>
internal sealed class ChatCompletions(ErnieModel model)
{
    private readonly IChatClient _client = model.AsChatClient();
    private readonly ErnieTokenizer _tokenizer = model.Tokenizer!;

    public async Task HandleAsync(HttpContext context)
    {
        var request = ChatCompletionRequest.From(await RequestObject.ReadAsync(context).ConfigureAwait(false), model);
        if (request.Streams) await StreamAsync(context, request).ConfigureAwait(false);
        else await AnswerAsync(context, request).ConfigureAwait(false);
    }

    private async Task AnswerAsync(HttpContext context, ChatCompletionRequest request)
    {
        var response = await _client.GetResponseAsync(request.Messages, request.Options, context.RequestAborted).ConfigureAwait(false);
        var contents = response.Messages.SelectMany(static message => message.Contents).ToList();
        await ApiJson.WriteAsync(context, json =>
        {
            ApiJson.WriteHead(json, $"chatcmpl-{response.ResponseId}", "chat.completion", response.CreatedAt ?? DateTimeOffset.UtcNow, model.ModelId);
            json.WriteStartArray("choices");
            json.WriteStartObject();
            json.WriteNumber("index", 0);
            json.WriteStartObject("message");
            json.WriteString("role", "assistant");
            var text = TextOf(contents);
            var calls = contents.OfType<FunctionCallContent>().ToList();
            json.WriteString("content", text.Length == 0 && calls.Count > 0 ? null : text);
            if (ReasoningOf(contents) is { Length: > 0 } reasoning) json.WriteString("reasoning_content", reasoning);
            if (calls.Count > 0)
            {
                json.WriteStartArray("tool_calls");
                foreach (var call in calls) WriteCall(json, call, index: null);
                json.WriteEndArray();
            }
            json.WriteNull("refusal");
            json.WriteEndObject();
            LogProbabilityJson.WriteChat(json, request.WantsProbabilities ? ProbabilitiesOf(response.AdditionalProperties) : null, _tokenizer);
            json.WriteString("finish_reason", Finish(response.FinishReason));
            json.WriteEndObject();
            json.WriteEndArray();
            if (response.Usage is { } usage) ApiJson.WriteUsage(json, usage);
            json.WriteEndObject();
        }).ConfigureAwait(false);
    }

    private async Task StreamAsync(HttpContext context, ChatCompletionRequest request)
    {
        var (id, created) = ($"chatcmpl-{Guid.NewGuid():N}", DateTimeOffset.UtcNow);
        var calls = 0;
        UsageDetails? usage = null;
        var updates = _client.GetStreamingResponseAsync(request.Messages, request.Options, context.RequestAborted);
        await EventStream.RunAsync(context, updates, BeginAsync, WriteAsync, EndAsync).ConfigureAwait(false);

        Task BeginAsync() => ChunkAsync(static json =>
        {
            json.WriteString("role", "assistant");
            json.WriteString("content", "");
        }, null);

        async Task WriteAsync(ChatResponseUpdate update)
        {
            usage = update.Contents.OfType<UsageContent>().FirstOrDefault()?.Details ?? usage;
            var (reasoning, text) = (ReasoningOf(update.Contents), TextOf(update.Contents));
            if (reasoning.Length > 0) await ChunkAsync(json => json.WriteString("reasoning_content", reasoning), null).ConfigureAwait(false);
            if (text.Length > 0) await ChunkAsync(json => json.WriteString("content", text), null, request.WantsProbabilities ? ProbabilitiesOf(update.AdditionalProperties) : null).ConfigureAwait(false);
            foreach (var call in update.Contents.OfType<FunctionCallContent>())
            {
                await ChunkAsync(json =>
                {
                    json.WriteStartArray("tool_calls");
                    WriteCall(json, call, calls++);
                    json.WriteEndArray();
                }, null).ConfigureAwait(false);
            }
            if (update.FinishReason is { } finish) await ChunkAsync(static _ => { }, Finish(finish)).ConfigureAwait(false);
        }

        async Task EndAsync()
        {
            if (!request.IncludesUsage || usage is null) return;
            await ApiJson.WriteEventAsync(context, json =>
            {
                ApiJson.WriteHead(json, id, "chat.completion.chunk", created, model.ModelId);
                json.WriteStartArray("choices");
                json.WriteEndArray();
                ApiJson.WriteUsage(json, usage);
                json.WriteEndObject();
            }).ConfigureAwait(false);
        }

        Task ChunkAsync(Action<Utf8JsonWriter> delta, string? finish, IReadOnlyCollection<ErnieTokenLogProbability>? tokens = null) => ApiJson.WriteEventAsync(context, json =>
        {
            ApiJson.WriteHead(json, id, "chat.completion.chunk", created, model.ModelId);
            json.WriteStartArray("choices");
            json.WriteStartObject();
            json.WriteNumber("index", 0);
            json.WriteStartObject("delta");
            delta(json);
            json.WriteEndObject();
            LogProbabilityJson.WriteChat(json, tokens, _tokenizer);
            json.WriteString("finish_reason", finish);
            json.WriteEndObject();
            json.WriteEndArray();
            if (request.IncludesUsage) json.WriteNull("usage");
            json.WriteEndObject();
        });
    }

    /// <summary>Those of the content; reasoning, calls and tags have no place for theirs in this format.</summary>
    private static List<ErnieTokenLogProbability> ProbabilitiesOf(AdditionalPropertiesDictionary? properties) =>
        properties?.TryGetValue(Sdk.Chat.ErnieChatClient.LogProbabilities, out var tokens) == true ? [.. ((ErnieTokenLogProbability[])tokens!).Where(static token => token.IsAnswer)] : [];

    private static string ReasoningOf(IEnumerable<AIContent> contents) => string.Concat(contents.OfType<TextReasoningContent>().Select(static part => part.Text));

    /// <summary>The answer. A call that cannot be read has no place of its own in this format: the client sees what the model wrote.</summary>
    private static string TextOf(IEnumerable<AIContent> contents)
    {
        var text = new StringBuilder();
        foreach (var content in contents)
        {
            if (content is TextContent part) text.Append(part.Text);
            else if (content is ErrorContent error) text.Append(error.Details ?? error.Message);
        }
        return text.ToString();
    }

    private static void WriteCall(Utf8JsonWriter json, FunctionCallContent call, int? index)
    {
        json.WriteStartObject();
        if (index is { } i) json.WriteNumber("index", i);
        json.WriteString("id", call.CallId);
        json.WriteString("type", "function");
        json.WriteStartObject("function");
        json.WriteString("name", call.Name);
        json.WriteString("arguments", JsonSerializer.Serialize(call.Arguments ?? new Dictionary<string, object?>(), AIJsonUtilities.DefaultOptions));
        json.WriteEndObject();
        json.WriteEndObject();
    }

    private static string Finish(ChatFinishReason? finish) => finish == ChatFinishReason.ToolCalls ? "tool_calls" : finish == ChatFinishReason.Length ? "length" : finish == ChatFinishReason.ContentFilter ? "content_filter" : "stop";
}
