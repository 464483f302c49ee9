using System.Threading.Channels;

namespace Ernie.Cli;

/// <summary>Works on several lines at once and delivers results in the order of the lines.</summary>
internal static class OrderedWork
{
    /// <param name="lines">Read no further ahead than <paramref name="parallel"/> lines.</param>
    /// <param name="parallel">Lines worked on at once.</param>
    /// <param name="work">Computes a line's result.</param>
    /// <param name="deliver">Gets the results, one at a time. The first error ends everything, after all results before it.</param>
    /// <param name="cancellationToken">Ends everything.</param>
    public static async Task RunAsync<T>(IAsyncEnumerable<JsonLine> lines, int parallel, Func<JsonLine, CancellationToken, Task<T>> work, Action<T> deliver, CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var room = new SemaphoreSlim(parallel);
        var started = Channel.CreateUnbounded<Task<T>>();
        var reading = StartAsync();
        try
        {
            await foreach (var result in started.Reader.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                deliver(await result.ConfigureAwait(false));
                room.Release();
            }
            await reading.ConfigureAwait(false);
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await ((Task)reading).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            while (started.Reader.TryRead(out var rest)) await ((Task)rest).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        async Task StartAsync()
        {
            try
            {
                await foreach (var line in lines.WithCancellation(stop.Token).ConfigureAwait(false))
                {
                    await room.WaitAsync(stop.Token).ConfigureAwait(false);
                    started.Writer.TryWrite(work(line, stop.Token));
                }
            }
            finally
            {
                started.Writer.Complete();
            }
        }
    }
}
