using System.Diagnostics;
using System.Runtime.CompilerServices;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Hosting;

/// <summary>The chat client of a host's model, which may still be loading: a request waits for it.</summary>
internal sealed class HostedChatClient(HostedModel host) : IChatClient
{
    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var client = (await host.GetAsync(cancellationToken).ConfigureAwait(false)).AsChatClient();
        var started = Stopwatch.GetTimestamp();
        var response = await client.GetResponseAsync(messages, options, cancellationToken).ConfigureAwait(false);
        Log(response.Usage, response.FinishReason, started);
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
        if (serviceType.IsInstanceOfType(this)) return this;
        if (host.Loaded is { } model) return model.AsChatClient().GetService(serviceType);
        // Telemetry asks for it when the pipeline is built, long before the model is there.
        return serviceType == typeof(ChatClientMetadata) ? new ChatClientMetadata("ernie") : null;
    }

    public void Dispose()
    {
        // The model is the host's.
    }

    private async IAsyncEnumerable<ChatResponseUpdate> StreamAsync(IEnumerable<ChatMessage> messages, ChatOptions? options, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var client = (await host.GetAsync(cancellationToken).ConfigureAwait(false)).AsChatClient();
        var started = Stopwatch.GetTimestamp();
        await foreach (var update in client.GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false))
        {
            if (update.FinishReason is not null) Log(update.Contents.OfType<UsageContent>().FirstOrDefault()?.Details, update.FinishReason, started);
            yield return update;
        }
    }

    private void Log(UsageDetails? usage, ChatFinishReason? finish, long started) =>
        HostingLog.Answered(host.Logger, usage?.InputTokenCount, usage?.CachedInputTokenCount, usage?.OutputTokenCount, Stopwatch.GetElapsedTime(started).TotalMilliseconds, finish?.Value);
}
