using Microsoft.AspNetCore.Http;

namespace Ernie.Cli.Serving;

/// <summary>Server-sent events of an answer as it is written. What fails after the first of them is told by whoever guards the request.</summary>
internal static class EventStream
{
    // What is wrong with a request shows in milliseconds and gets a status of its own; a long prompt computes for minutes, and its client wants to see that something happens.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1);

    public static async Task RunAsync<T>(HttpContext context, IAsyncEnumerable<T> updates, Func<Task> begin, Func<T, Task> write, Func<Task> end)
    {
        var reader = updates.GetAsyncEnumerator(context.RequestAborted);
        await using var _ = reader.ConfigureAwait(false);
        var next = reader.MoveNextAsync().AsTask();
        await Task.WhenAny(next, Task.Delay(s_patience, context.RequestAborted)).ConfigureAwait(false);
        try
        {
            if (next.IsCompleted) await next.ConfigureAwait(false);
            await ApiJson.BeginEventsAsync(context).ConfigureAwait(false);
            await begin().ConfigureAwait(false);
            while (await next.ConfigureAwait(false))
            {
                await write(reader.Current).ConfigureAwait(false);
                next = reader.MoveNextAsync().AsTask();
            }
            await end().ConfigureAwait(false);
            await ApiJson.WriteEventAsync(context, "[DONE]"u8.ToArray()).ConfigureAwait(false);
        }
        finally
        {
            // An enumerator must not be disposed while it moves.
            await ((Task)next).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }
}
