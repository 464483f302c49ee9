using System.Net.ServerSentEvents;
using Microsoft.Extensions.AI;

namespace WebApi;

/// <summary>An answer as events: <c>reasoning</c> and <c>text</c> while it is written, then <c>done</c>. Without <c>done</c> it is not whole.</summary>
internal static class AnswerEvents
{
    /// <summary>Waits for the first piece of the answer: what is wrong with a request shows by then, and can still be a status.</summary>
    public static async Task<IAsyncEnumerable<SseItem<object>>> BeginAsync(IChatClient client, Conversation conversation, CancellationToken cancellationToken)
    {
        var updates = client.GetStreamingResponseAsync(conversation.ToChat(), cancellationToken: cancellationToken).GetAsyncEnumerator(cancellationToken);
        try
        {
            return RunAsync(updates, await updates.MoveNextAsync());
        }
        catch
        {
            await updates.DisposeAsync();
            throw;
        }
    }

    private static async IAsyncEnumerable<SseItem<object>> RunAsync(IAsyncEnumerator<ChatResponseUpdate> updates, bool any)
    {
        await using var _ = updates;
        for (; any; any = await updates.MoveNextAsync())
        {
            foreach (var content in updates.Current.Contents)
            {
                switch (content)
                {
                    case TextReasoningContent reasoning: yield return new SseItem<object>(new { reasoning.Text }, "reasoning"); break;
                    case TextContent text: yield return new SseItem<object>(new { text.Text }, "text"); break;
                    case UsageContent { Details: var usage }:
                        yield return new SseItem<object>(new { finish = updates.Current.FinishReason?.Value, usage.InputTokenCount, usage.CachedInputTokenCount, usage.OutputTokenCount }, "done");
                        break;
                }
            }
        }
    }
}
