using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>
/// Joins the updates of a stream where they come faster than a caller wants them. The first is given at once, and so is the last; between them at least the interval passes. Nothing waits for
/// another update to come: what is held is given when the interval is over.
/// </summary>
internal sealed class CoalescedUpdates(TimeSpan interval, TimeProvider clock)
{
    /// <param name="open">Opens the stream, which is cancelled when the caller leaves it early.</param>
    /// <param name="cancellationToken">The caller's.</param>
    public async IAsyncEnumerable<ChatResponseUpdate> ReadAsync(Func<CancellationToken, IAsyncEnumerable<ChatResponseUpdate>> open, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        using var leaving = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var updates = open(leaving.Token).GetAsyncEnumerator(CancellationToken.None);
        var moving = Task.FromResult(false);
        var due = Task.CompletedTask;
        ChatResponseUpdate? held = null;
        ExceptionDispatchInfo? failure = null;
        try
        {
            while (true)
            {
                moving = updates.MoveNextAsync().AsTask();
                // What is at hand already comes along: a caller slower than the model does not fall behind.
                if (held is not null && !moving.IsCompleted && await Task.WhenAny(moving, due).ConfigureAwait(false) == due && !moving.IsCompleted)
                {
                    due = Task.Delay(interval, clock, leaving.Token);
                    yield return held;
                    held = null;
                }
                try
                {
                    if (!await moving.ConfigureAwait(false)) break;
                }
                catch (Exception e) when (e is not OperationCanceledException || !cancellationToken.IsCancellationRequested)
                {
                    failure = ExceptionDispatchInfo.Capture(e);
                    break;
                }
                catch (OperationCanceledException e)
                {
                    // It names the token that it saw, which is not the caller's.
                    throw new OperationCanceledException(e.Message, e, cancellationToken);
                }
                held = Join(held, updates.Current);
            }
            if (held is not null) yield return held;
            failure?.Throw();
        }
        finally
        {
            await leaving.CancelAsync().ConfigureAwait(false);
            // An enumerator must not be disposed while it moves.
            await ((Task)moving).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await updates.DisposeAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Both in one, of one message; texts that follow one another are one.</summary>
    private static ChatResponseUpdate Join(ChatResponseUpdate? first, ChatResponseUpdate second)
    {
        if (first is null) return second;
        foreach (var content in second.Contents)
        {
            switch (first.Contents[^1], content)
            {
                case (TextContent before, TextContent after):
                    first.Contents[^1] = new TextContent(before.Text + after.Text);
                    break;
                case (TextReasoningContent before, TextReasoningContent after):
                    first.Contents[^1] = new TextReasoningContent(before.Text + after.Text);
                    break;
                default:
                    first.Contents.Add(content);
                    break;
            }
        }
        first.FinishReason = second.FinishReason;
        if (second.AdditionalProperties?.TryGetValue(ErnieChatClient.LogProbabilities, out var added) == true)
        {
            var properties = first.AdditionalProperties ??= [];
            var own = properties.TryGetValue(ErnieChatClient.LogProbabilities, out var known) ? (ErnieTokenLogProbability[])known! : [];
            properties[ErnieChatClient.LogProbabilities] = (ErnieTokenLogProbability[])[.. own, .. (ErnieTokenLogProbability[])added!];
        }
        return first;
    }
}
