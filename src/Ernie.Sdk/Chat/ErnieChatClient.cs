using System.Runtime.CompilerServices;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Engine;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>An <see cref="IChatClient"/> over a model that it does not own. Thread-safe; keeps nothing between calls.</summary>
internal sealed class ErnieChatClient(ErnieModel model, ErnieTokenizer tokenizer, ChatTemplate template, ContextWindow window, TimeProvider clock) : IChatClient
{
    /// <summary>The additional property of updates and responses that holds tokens' probabilities.</summary>
    public const string LogProbabilities = "logprobs";

    private const string ClosedReasoning = "\n</think>\n\n";

    private readonly GrammarCache _grammars = new(tokenizer, template.IsThinking);
    private readonly Lazy<TokenTrie> _visible = new(() => TokenTrie.OfVisible(tokenizer, model.StopTokenIds));
    // Found out by rendering: here, not in the first request, which is read on its caller's thread.
    private readonly bool _takesLateSystem = template.TakesLateSystem;
    private readonly ChatClientMetadata _metadata = new("ernie", providerUri: null, model.ModelId);

    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        var updates = new List<ChatResponseUpdate>();
        var probabilities = new List<ErnieTokenLogProbability>();
        await foreach (var update in GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false))
        {
            // Of properties with one name, a response would keep the last update's.
            if (update.AdditionalProperties?.Remove(LogProbabilities, out var own) == true) probabilities.AddRange((ErnieTokenLogProbability[])own!);
            updates.Add(update);
        }
        var response = updates.ToChatResponse();
        if (probabilities.Count > 0) (response.AdditionalProperties ??= [])[LogProbabilities] = probabilities.ToArray();
        return response;
    }

    public IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return StreamAsync(messages, options, cancellationToken);
    }

    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        if (serviceKey is not null) return null;
        return serviceType.IsInstanceOfType(this) ? this
            : serviceType == typeof(ChatClientMetadata) ? _metadata
            : serviceType.IsInstanceOfType(model) ? model
            : serviceType.IsInstanceOfType(tokenizer) ? tokenizer
            : null;
    }

    public void Dispose()
    {
        // The model belongs to whoever loaded it.
    }

    /// <summary>The prompt of a conversation, as the model gets it.</summary>
    public List<int> Encode(ChatRequest request) => tokenizer.Encode(Render(request));

    public ChatRequest Request(IEnumerable<ChatMessage> messages, ChatOptions? options) => ChatRequest.From(messages, options, this, model.ModelId, template, _takesLateSystem);

    /// <summary>A model that thinks first answers at once when its reasoning is already closed.</summary>
    private PromptText Render(ChatRequest request)
    {
        var prompt = template.Render(request.Messages, request.Tools);
        return request.Generation.MaxReasoningTokens == 0 && ChatTemplate.EndsInReasoning(prompt) ? new PromptTextBuilder().Append(prompt).Append(ClosedReasoning).Build() : prompt;
    }

    private async IAsyncEnumerable<ChatResponseUpdate> StreamAsync(IEnumerable<ChatMessage> messages, ChatOptions? options, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        IReadOnlyList<ChatMessage> conversation = [.. messages];
        var request = Request(conversation, options);
        // A long document takes a while to encode: not on the caller's thread, which may be a user interface's. Nothing after it runs there either, however soon it is done.
        var (prompt, isReasoning, grammar, forbidden) = await Task.Run(() =>
        {
            var text = Render(request);
            var ids = tokenizer.Encode(text);
            var fitting = window.Fit(conversation, request.Generation.MaxTokens, candidate => candidate == conversation ? ids.Count : Encode(Request(candidate, options)).Count);
            if (fitting != conversation)
            {
                request = Request(fitting, options);
                text = Render(request);
                ids = tokenizer.Encode(text);
            }
            var isReasoning = ChatTemplate.EndsInReasoning(text);
            Check(request.Forbidden);
            return (ids, isReasoning, Constrain(request, isReasoning), request.Output is null ? Forbid(request) : null);
        }, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.ForceYielding);
        var parser = template.IsThinking ? new OutputParser(isReasoning) : null;
        var answer = new AnswerStream(tokenizer, request, model.ModelId, parser, request.Output is { IsText: false } ? () => grammar!.IsComplete : null);
        var updates = request.Generation.MaxUpdatesPerSecond is { } rate ? new CoalescedUpdates(TimeSpan.FromSeconds(1 / rate), clock).ReadAsync(Read, cancellationToken) : Read(cancellationToken);
        await foreach (var update in updates.ConfigureAwait(false)) yield return update;

        IAsyncEnumerable<ChatResponseUpdate> Read(CancellationToken cancellation) => answer.ReadAsync(
            request.Output is { IsText: false } ? model.GenerateTokensAsync(prompt, request.Generation, grammar, request.TopProbabilities, cancellation) : GenerateAsync(prompt, request, parser, (TokenConstraint?)grammar ?? forbidden, cancellation), prompt.Count);
    }

    /// <summary>A grammar of documents or calls closes reasoning at its budget itself: it leaves it on the shortest way.</summary>
    private GrammarConstraint? Constrain(ChatRequest request, bool isReasoning) => request.Output is not { } output ? null
        : new GrammarConstraint(_grammars.Get(output, template.IsThinking && isReasoning), model.VocabularySize, model.StopTokenIds, output.IsText ? null : request.Generation.MaxReasoningTokens);

    private ForbiddenText? Forbid(ChatRequest request) => request.Forbidden is { } forbidden ? new ForbiddenText(forbidden, _visible.Value, model.VocabularySize) : null;

    private void Check(ForbiddenWords? forbidden)
    {
        foreach (var id in forbidden?.Tokens ?? [])
        {
            if (id >= model.VocabularySize) throw new ArgumentException($"Additional property 'bad_words' names token {id}; ids lie between 0 and {model.VocabularySize - 1}.", nameof(forbidden));
        }
    }

    /// <summary>Generates an answer. Reasoning that reaches its budget is closed for the model, which goes on from there; the parser tells, as it has read all tokens that came before.</summary>
    private async IAsyncEnumerable<GeneratedToken> GenerateAsync(List<int> prompt, ChatRequest request, OutputParser? parser, TokenConstraint? constraint, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var options = request.Generation;
        var budget = parser is null ? null : options.MaxReasoningTokens;
        var reasoned = new List<int>();
        await foreach (var token in model.GenerateTokensAsync(prompt, options, constraint, request.TopProbabilities, cancellationToken).ConfigureAwait(false))
        {
            yield return token;
            if (budget is null) continue;
            if (!parser!.IsReasoning || token.Finish is not null) budget = null;
            else
            {
                reasoned.Add(token.Id);
                if (reasoned.Count >= budget) break;
            }
        }
        if (budget is null) yield break;

        var closing = tokenizer.EncodeToIds(ClosedReasoning, allowSpecialTokens: true);
        List<int> begun = [.. prompt, .. reasoned, .. closing];
        var rest = options.Snapshot();
        rest.MaxTokens = options.MaxTokens - reasoned.Count - closing.Count;
        // Draws of a seed begin anew.
        rest.Seed = unchecked(options.Seed + 1);
        rest.PrefillProgress = null;
        if (rest.MaxTokens < 1 || begun.Count >= model.ContextLength) yield break;
        foreach (var id in closing)
        {
            if (constraint is GrammarConstraint grammar) grammar.Advance(id);
            yield return new GeneratedToken(id, null, 0);
        }
        await foreach (var token in model.GenerateTokensAsync(begun, rest, constraint, request.TopProbabilities, cancellationToken).ConfigureAwait(false)) yield return token;
    }
}
