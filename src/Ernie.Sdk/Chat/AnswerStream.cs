using System.Text.Json;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Tokenization;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>Turns the tokens of one answer into updates: text, reasoning, calls of tools, and at the end usage and finish reason, once.</summary>
/// <param name="tokenizer">Decodes the tokens.</param>
/// <param name="request">What was asked for.</param>
/// <param name="modelId">Stands on every update.</param>
/// <param name="parser">Splits the output of a model that writes tags; null for one that writes text only.</param>
/// <param name="isWhole">Whether what has been generated is a whole document, so that nothing is missing where tokens run out.</param>
internal sealed class AnswerStream(ErnieTokenizer tokenizer, ChatRequest request, string modelId, OutputParser? parser, Func<bool>? isWhole = null)
{
    private readonly string _id = Guid.NewGuid().ToString("N");
    private readonly DateTimeOffset _createdAt = DateTimeOffset.UtcNow;
    private readonly StopSequenceMatcher _stops = new(request.StopSequences);
    private readonly List<AIContent> _contents = [];
    private readonly List<ErnieTokenLogProbability> _probabilities = [];
    // Of these, the ones from here on have not yet become text or anything else.
    private int _undecided;
    private int _calls;

    private bool IsComplete => _stops.Stopped || (_calls > 0 && !request.AllowsMultipleCalls);

    /// <param name="tokens">What the model generates. It is left as soon as the answer is complete.</param>
    /// <param name="inputTokens">Tokens of the prompt.</param>
    public async IAsyncEnumerable<ChatResponseUpdate> ReadAsync(IAsyncEnumerable<GeneratedToken> tokens, int inputTokens)
    {
        var decoder = new StreamingDecoder(tokenizer, skipSpecialTokens: true);
        var finish = ChatFinishReason.Length;
        var (outputTokens, reasoningTokens, cachedTokens) = (0, 0, 0);
        ErnieTokenLogProbability? end = null;
        await foreach (var token in tokens.ConfigureAwait(false))
        {
            // A budget that ends the reasoning starts the engine twice: the prompt is the first time's.
            if (outputTokens++ == 0) cachedTokens = token.CachedTokens;
            if (parser?.IsReasoning == true) reasoningTokens++;
            var probability = ProbabilityOf(token);
            if (token.Finish == FinishReason.Stop)
            {
                finish = ChatFinishReason.Stop;
                end = probability;
            }
            else
            {
                if (probability is not null) _probabilities.Add(probability);
                Append(decoder.Append(token.Id), isLast: false);
                if (probability is not null) Decide(isHeld: decoder.PendingCount > 0 || parser?.HoldsBack == true || _stops.HoldsBack);
            }
            if (TakeUpdate() is { } update) yield return update;
            if (IsComplete) break;
        }
        if (!IsComplete) Append(decoder.Finish(), isLast: true);
        Decide(isHeld: false);
        if (end is not null) _probabilities.Add(end);
        if (IsComplete || isWhole?.Invoke() == true) finish = ChatFinishReason.Stop;
        if (_calls > 0 && finish == ChatFinishReason.Stop) finish = ChatFinishReason.ToolCalls;
        if (TakeUpdate() is { } rest) yield return rest;

        var usage = new UsageDetails { InputTokenCount = inputTokens, OutputTokenCount = outputTokens, TotalTokenCount = inputTokens + outputTokens, CachedInputTokenCount = cachedTokens };
        if (parser is not null) usage.ReasoningTokenCount = reasoningTokens;
        _contents.Add(new UsageContent(usage));
        var last = TakeUpdate()!;
        last.FinishReason = finish;
        yield return last;
    }

    private void Append(string text, bool isLast)
    {
        if (parser is null) AddText(text);
        else
        {
            foreach (var part in parser.Append(text)) Add(part);
            if (isLast)
            {
                foreach (var part in parser.Finish()) Add(part);
            }
        }
        if (isLast) AddContent(_stops.Finish());
    }

    private void Add(OutputPart part)
    {
        if (IsComplete) return;
        switch (part)
        {
            case ReasoningPart { Text: var text }:
                if (!request.HidesReasoning) _contents.Add(new TextReasoningContent(text));
                break;
            case AnswerPart { Text: var text }:
                AddText(text);
                break;
            // Nobody asked for calls: then what looks like one is an answer about calls.
            case CallPart { Source: var text } when request.Tools is null:
                AddText(text);
                break;
            case BrokenCallPart { Source: var text } when request.Tools is null:
                AddText(text);
                break;
            case CallPart call when !request.ToolNames.Contains(call.Name):
                AddContent(_stops.Finish());
                _contents.Add(new ErrorContent($"The model called '{call.Name}', which is not among ChatOptions.Tools: {string.Join(", ", request.ToolNames)}.") { ErrorCode = "unknown_tool", Details = call.Source });
                break;
            case CallPart call:
                AddContent(_stops.Finish());
                _contents.Add(new FunctionCallContent($"call-{_id}-{_calls++}", call.Name, Arguments(call.Arguments)));
                break;
            case BrokenCallPart broken:
                AddContent(_stops.Finish());
                _contents.Add(new ErrorContent($"The model wrote a tool call that cannot be read: {broken.Reason}.") { ErrorCode = "broken_tool_call", Details = broken.Source });
                break;
        }
    }

    private ErnieTokenLogProbability? ProbabilityOf(GeneratedToken token) => token.Probabilities is not { } own ? null
        : new(token.Id, TextOf(token.Id), own.Chosen, [.. own.Top.Select(top => new ErnieTokenLogProbability(top.Id, TextOf(top.Id), top.LogProbability, []))]);

    /// <summary>Tokens are part of the answer if text has come of them; while it is held back, that is open.</summary>
    private void Decide(bool isHeld)
    {
        if (_contents.Exists(static content => content is TextContent))
        {
            for (var i = _undecided; i < _probabilities.Count; i++) _probabilities[i] = _probabilities[i] with { IsAnswer = true };
        }
        else if (_contents.Count == 0 && isHeld)
        {
            return;
        }
        _undecided = _probabilities.Count;
    }

    private string TextOf(int token) => tokenizer.Decode([token], skipSpecialTokens: false);

    private void AddText(string text) => AddContent(_stops.Append(text));

    private void AddContent(string text)
    {
        if (text.Length > 0) _contents.Add(new TextContent(text));
    }

    private static Dictionary<string, object?> Arguments(JsonElement json)
    {
        var arguments = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var argument in json.EnumerateObject()) arguments[argument.Name] = argument.Value;
        return arguments;
    }

    /// <summary>An update with what has come, if anything has.</summary>
    private ChatResponseUpdate? TakeUpdate()
    {
        if (_contents.Count == 0) return null;
        var update = new ChatResponseUpdate(ChatRole.Assistant, [.. _contents])
        {
            ResponseId = $"ernie-{_id}",
            MessageId = $"message-{_id}",
            ModelId = modelId,
            CreatedAt = _createdAt,
        };
        if (_probabilities.Count > 0) update.AdditionalProperties = new() { [ErnieChatClient.LogProbabilities] = (ErnieTokenLogProbability[])[.. _probabilities] };
        _contents.Clear();
        _probabilities.Clear();
        _undecided = 0;
        return update;
    }
}
