using System.Diagnostics;
using Ernie.Sdk;

namespace Ernie.Cli.Pulling;

/// <summary>Bytes of all files together. The rate is that of what comes now, not of what was there.</summary>
internal sealed class PullProgress(ProgressLine line)
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private long _total, _done, _received;

    public long Received => Interlocked.Read(ref _received);

    public void Expect(long bytes) => Interlocked.Add(ref _total, bytes);

    /// <summary>Bytes that were there, or, below zero, that turned out to be of no use.</summary>
    public void Found(long bytes) => Interlocked.Add(ref _done, bytes);

    public void Receive(int bytes)
    {
        var received = Interlocked.Add(ref _received, bytes);
        var done = Interlocked.Add(ref _done, bytes);
        var total = Interlocked.Read(ref _total);
        line.Show(total == 0 ? null : Math.Min(1, (double)done / total), () => ProgressLine.Bytes(done, total, received / Stopwatch.GetElapsedTime(_start).TotalSeconds));
    }
}
