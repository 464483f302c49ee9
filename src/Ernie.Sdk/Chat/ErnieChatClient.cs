using System.Runtime.CompilerServices;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Tokenization;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>An <see cref="IChatClient"/> over a model that it does not own. Thread-safe; keeps nothing between calls.</summary>
internal sealed class ErnieChatClient(ErnieModel model, ErnieTokenizer tokenizer, ChatTemplate template) : IChatClient
{
    private readonly ChatClientMetadata _metadata = new("ernie", providerUri: null, model.ModelId);

    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
        await GetStreamingResponseAsync(messages, options, cancellationToken).ToChatResponseAsync(cancellationToken).ConfigureAwait(false);

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
    public List<int> Encode(ChatRequest request) => tokenizer.Encode(template.Render(request.Messages));

    public ChatRequest Request(IEnumerable<ChatMessage> messages, ChatOptions? options) => ChatRequest.From(messages, options, this, model.ModelId);

    private async IAsyncEnumerable<ChatResponseUpdate> StreamAsync(IEnumerable<ChatMessage> messages, ChatOptions? options, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var request = Request(messages, options);
        // A long document takes a while to encode: not on the caller's thread, which may be a user interface's.
        var prompt = await Task.Run(() => Encode(request), cancellationToken).ConfigureAwait(false);
        var answer = new AnswerBuilder(model.ModelId);
        var decoder = new StreamingDecoder(tokenizer, skipSpecialTokens: true);
        var stops = new StopSequenceMatcher(request.StopSequences);
        var finish = ChatFinishReason.Length;
        await foreach (var token in model.GenerateTokensAsync(prompt, request.Generation, cancellationToken).ConfigureAwait(false))
        {
            answer.OutputTokens++;
            if (token.Finish == FinishReason.Stop) finish = ChatFinishReason.Stop;
            else if (stops.Append(decoder.Append(token.Id)) is { Length: > 0 } text) yield return answer.Text(text);
            if (stops.Stopped) break;
        }
        var rest = stops.Append(decoder.Finish()) + stops.Finish();
        if (rest.Length > 0) yield return answer.Text(rest);
        if (stops.Stopped) finish = ChatFinishReason.Stop;
        yield return answer.End(finish, prompt.Count);
    }

    /// <summary>Makes the updates of one answer.</summary>
    private sealed class AnswerBuilder(string modelId)
    {
        private readonly string _id = Guid.NewGuid().ToString("N");
        private readonly DateTimeOffset _createdAt = DateTimeOffset.UtcNow;

        public int OutputTokens { get; set; }

        public ChatResponseUpdate Text(string text) => Update(new TextContent(text));

        public ChatResponseUpdate End(ChatFinishReason finish, int inputTokens)
        {
            var update = Update(new UsageContent(new UsageDetails { InputTokenCount = inputTokens, OutputTokenCount = OutputTokens, TotalTokenCount = inputTokens + OutputTokens }));
            update.FinishReason = finish;
            return update;
        }

        private ChatResponseUpdate Update(AIContent content) => new(ChatRole.Assistant, [content])
        {
            ResponseId = $"ernie-{_id}",
            MessageId = $"message-{_id}",
            ModelId = modelId,
            CreatedAt = _createdAt,
        };
    }
}
