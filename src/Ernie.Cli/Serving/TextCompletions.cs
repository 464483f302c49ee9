using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using Ernie.Sdk;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Tokenization;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Serving;

/// <summary><c>POST /v1/completions</c>: goes on with a text, without a chat template. Nothing is added to the prompt.</summary>
internal sealed class TextCompletions(ErnieModel model, ErnieTokenizer tokenizer)
{
    // OpenAI's default.
    private const int DefaultMaxTokens = 16;

    // As many as OpenAI's service takes.
    private const int MaxPrompts = 2048;

    public async Task HandleAsync(HttpContext context)
    {
        var request = await RequestObject.ReadAsync(context).ConfigureAwait(false);
        ChatCompletionRequest.CheckModel(request, model);
        var prompts = Prompts(request);
        var options = new ErnieGenerationOptions
        {
            MaxTokens = (int?)request.Integer("max_tokens", 1, int.MaxValue) ?? DefaultMaxTokens,
            Temperature = request.Number("temperature", 0, 2),
            TopP = request.Number("top_p", 0, 1),
            TopK = (int?)request.Integer("top_k", 0, int.MaxValue),
            MinP = request.Number("min_p", 0, 1),
            RepetitionPenalty = request.Number("repetition_penalty", 1e-3f, 1000),
            FrequencyPenalty = request.Number("frequency_penalty", -2, 2),
            PresencePenalty = request.Number("presence_penalty", -2, 2),
            Seed = request.Integer("seed"),
        };
        var stops = request.Texts("stop");
        var (streams, includesUsage) = ChatCompletionRequest.ReadStream(request);
        ChatCompletionRequest.RefuseCommon(request);
        options.LogitBias = ChatCompletionRequest.ReadBias(request, model);
        var top = (int?)request.Integer("logprobs", 0, ChatCompletionRequest.MaxTopProbabilities);
        request.Only("best_of", "1");
        request.Only("echo", "false");
        request.Only("suffix", "");
        request.End();
        if (streams && prompts.Count > 1) throw new ApiException(StatusCodes.Status400BadRequest, "'prompt': a stream has one prompt.", "prompt", "unsupported");
        var (id, created) = ($"cmpl-{Guid.NewGuid():N}", DateTimeOffset.UtcNow);
        if (streams)
        {
            var total = new UsageDetails();
            await EventStream.RunAsync(context, ReadAsync(prompts[0], options, stops, top, total, context.RequestAborted), static () => Task.CompletedTask,
                piece => ApiJson.WriteEventAsync(context, json => WriteChoices(json, [piece], includesUsage ? new UsageDetails() : null, isChunk: true)),
                () => includesUsage ? ApiJson.WriteEventAsync(context, json => WriteChoices(json, [], total, isChunk: false)) : Task.CompletedTask).ConfigureAwait(false);
            return;
        }
        // No more than are computed together: the rest would fill the queue, for this request too. One that fails ends the others.
        var answers = new (Piece Piece, UsageDetails Usage)[prompts.Count];
        var limits = new ParallelOptions { MaxDegreeOfParallelism = model.MaxConcurrentRequests, CancellationToken = context.RequestAborted };
        await Parallel.ForAsync(0, prompts.Count, limits, async (i, cancellationToken) =>
        {
            var (usage, text, finish) = (new UsageDetails(), new StringBuilder(), (string?)null);
            var tokens = top is null ? null : new List<TextToken>();
            await foreach (var piece in ReadAsync(prompts[i], options, stops, top, usage, cancellationToken).ConfigureAwait(false))
            {
                text.Append(piece.Text);
                finish = piece.Finish;
                tokens?.AddRange(piece.Tokens ?? []);
            }
            answers[i] = (new Piece(text.ToString(), finish, tokens), usage);
        }).ConfigureAwait(false);
        var sum = new UsageDetails();
        foreach (var answer in answers) sum.Add(answer.Usage);
        await ApiJson.WriteAsync(context, json => WriteChoices(json, [.. answers.Select(static answer => answer.Piece)], sum, isChunk: false)).ConfigureAwait(false);

        void WriteChoices(Utf8JsonWriter json, Piece[] pieces, UsageDetails? usage, bool isChunk)
        {
            ApiJson.WriteHead(json, id, "text_completion", created, model.ModelId);
            json.WriteStartArray("choices");
            for (var i = 0; i < pieces.Length; i++)
            {
                json.WriteStartObject();
                json.WriteNumber("index", i);
                json.WriteString("text", pieces[i].Text);
                LogProbabilityJson.WriteText(json, pieces[i].Tokens, tokenizer);
                json.WriteString("finish_reason", pieces[i].Finish);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            if (usage is not null && isChunk) json.WriteNull("usage");
            else if (usage is not null) ApiJson.WriteUsage(json, usage);
            json.WriteEndObject();
        }
    }

    /// <summary>Pieces of an answer; the last has a finish reason, and then <paramref name="usage"/> is filled in.</summary>
    private async IAsyncEnumerable<Piece> ReadAsync(IReadOnlyList<int> prompt, ErnieGenerationOptions options, IEnumerable<string>? stops, int? top, UsageDetails usage, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var (decoder, matcher) = (new StreamingDecoder(tokenizer, skipSpecialTokens: true), new StopSequenceMatcher(stops));
        var (finish, generated, cached, decoded, written) = ("length", 0, 0, 0, 0);
        var tokens = top is null ? null : new List<TextToken>();
        await foreach (var token in model.GenerateTokensAsync(prompt, options, null, top, cancellationToken).ConfigureAwait(false))
        {
            if (generated++ == 0) cached = token.CachedTokens;
            if (token.Finish == FinishReason.Stop) finish = "stop";
            else
            {
                if (token.Probabilities is { } own) tokens!.Add(new TextToken(token.Id, own.Chosen, own.Top, decoded));
                var piece = decoder.Append(token.Id);
                decoded += piece.Length;
                if (matcher.Append(piece) is { Length: > 0 } text)
                {
                    written += text.Length;
                    yield return new Piece(text, null, Take());
                }
            }
            if (matcher.Stopped) break;
        }
        var rest = matcher.Append(decoder.Finish()) + matcher.Finish();
        written += rest.Length;
        (usage.InputTokenCount, usage.OutputTokenCount, usage.TotalTokenCount, usage.CachedInputTokenCount) = (prompt.Count, generated, prompt.Count + generated, cached);
        yield return new Piece(rest, matcher.Stopped ? "stop" : finish, Take());

        // Tokens whose text has gone out; a stop sequence's have none.
        List<TextToken>? Take()
        {
            var taken = tokens?.FindAll(token => token.Offset < written);
            tokens?.RemoveAll(token => token.Offset < written);
            return taken;
        }
    }

    private List<IReadOnlyList<int>> Prompts(RequestObject request)
    {
        var prompt = request.Take("prompt") ?? throw request.Missing("prompt");
        if (prompt.ValueKind == JsonValueKind.String) return [Encode(prompt)];
        if (prompt.ValueKind == JsonValueKind.Array && prompt.GetArrayLength() is > 0 and var count)
        {
            var items = prompt.EnumerateArray();
            if (items.All(IsToken)) return [Ids(prompt)];
            if (count > MaxPrompts) throw new ApiException(StatusCodes.Status400BadRequest, $"'prompt' has {count} prompts; a request may have at most {MaxPrompts}. Send the rest in further requests.", "prompt", "invalid_value");
            if (items.All(static item => item.ValueKind == JsonValueKind.String)) return [.. items.Select(Encode)];
            if (items.All(static item => item.ValueKind == JsonValueKind.Array && item.EnumerateArray().All(IsToken))) return [.. items.Select(Ids)];
        }
        throw request.Wrong("prompt", "a string, an array of strings, an array of token ids, or an array of these");

        static bool IsToken(JsonElement item) => item.ValueKind == JsonValueKind.Number && item.TryGetInt32(out _);
        static IReadOnlyList<int> Ids(JsonElement ids) => [.. ids.EnumerateArray().Select(static id => id.GetInt32())];
        IReadOnlyList<int> Encode(JsonElement text) => tokenizer.EncodeToIds(text.GetString()!, allowSpecialTokens: false);
    }

    private sealed record Piece(string Text, string? Finish, IReadOnlyList<TextToken>? Tokens);
}
