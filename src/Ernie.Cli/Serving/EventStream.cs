using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli.Serving;

/// <summary>Server-sent events of an answer as it is written.</summary>
internal static class EventStream
{
    // What is wrong with a request shows in milliseconds and gets a status of its own; a long prompt computes for minutes, and its client wants to see that something happens.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1);

    public static async Task RunAsync<T>(HttpContext context, IAsyncEnumerable<T> updates, Func<Task> begin, Func<T, Task> write, Func<Task> end, ILogger logger)
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
        catch (Exception e) when (context.Response.HasStarted && !context.RequestAborted.IsCancellationRequested)
        {
            // The status has gone out: the error is an event, and the missing [DONE] says that the answer is not whole.
            var error = ApiException.Of(e);
            if (error is null) logger.LogError(e, "A request failed.");
            await ApiJson.WriteEventAsync(context, json => ApiJson.WriteError(json, error ?? ErnieServer.Unexpected())).ConfigureAwait(false);
        }
        finally
        {
            // An enumerator must not be disposed while it moves.
            await ((Task)next).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }
}
