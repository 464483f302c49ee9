namespace Ernie.Cli.Pulling;

/// <summary>How often, and after what pauses, something that failed is tried again.</summary>
internal sealed class RetryPolicy(int retries)
{
    private static readonly TimeSpan s_first = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);
    /// <summary>Arbitrary: whoever waits at a terminal would rather know.</summary>
    private static readonly TimeSpan s_longestAsked = TimeSpan.FromMinutes(5);

    public async Task<T> RunAsync<T>(Func<Task<T>> attempt, CancellationToken cancellationToken)
    {
        for (var failures = 1; ; failures++)
        {
            try
            {
                return await attempt().ConfigureAwait(false);
            }
            catch (InterruptedTransferException e)
            {
                await PauseAsync(failures, e, "", cancellationToken).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Waits before the next attempt.</summary>
    /// <param name="failures">Attempts without any progress so far, at least 1.</param>
    /// <param name="reason">Why the last one failed.</param>
    /// <param name="outcome">What becomes of that which has arrived: a sentence, or nothing.</param>
    /// <param name="cancellationToken">Stops waiting.</param>
    /// <exception cref="IOException">There were enough.</exception>
    public async Task PauseAsync(int failures, InterruptedTransferException reason, string outcome, CancellationToken cancellationToken)
    {
        if (failures > retries) throw new IOException($"{reason.Message} Given up after {failures} attempt{(failures == 1 ? "" : "s")}. {outcome}".TrimEnd(), reason);
        var pause = s_first * Math.Pow(2, failures - 1);
        if (pause > s_longest) pause = s_longest;
        // Several files that failed together shall not come back together.
        pause *= 0.75 + Random.Shared.NextDouble() / 2;
        if (reason.RetryAfter is { } asked)
        {
            if (asked > s_longestAsked) throw new IOException($"{reason.Message} It asks to come back in {asked:g}. {outcome}".TrimEnd(), reason);
            if (asked > pause) pause = asked;
        }
        await Task.Delay(pause, cancellationToken).ConfigureAwait(false);
    }
}
