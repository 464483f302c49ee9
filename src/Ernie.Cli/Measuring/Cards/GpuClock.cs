using System.Diagnostics;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>Times what is launched on a stream of its own, by events of the GPU.</summary>
/// <param name="context">Of the GPU.</param>
/// <param name="isTiny">Whether one call will do: the GPU is an emulated one.</param>
/// <param name="runs">Repetitions; medians are given.</param>
internal sealed class GpuClock(CudaContext context, bool isTiny, int runs = 3) : IDisposable
{
    /// <summary>A measurement lasts so long at least; a card has reached its clock rate then.</summary>
    private const double LeastSeconds = 0.1;
    /// <summary>So many calls the driver takes without waiting for the GPU: it keeps about a thousand launches.</summary>
    private const int CallsAtOnce = 16;
    private readonly CudaEvent _start = context.CreateEvent(timing: true), _end = context.CreateEvent(timing: true);

    public CudaStream Stream { get; } = context.CreateStream();

    /// <summary>What the CPU took to ask for one call of the last measurement: of the first ones, which wait for nothing; where that is no less than the result, the CPU was measured.</summary>
    public double LaunchSeconds { get; private set; }

    /// <summary>Seconds of one call: the median of some runs of many.</summary>
    /// <param name="launch">Told the number of the call.</param>
    public double Seconds(Action<int> launch)
    {
        launch(0);
        Stream.Synchronize();
        var once = Run(1, launch);
        var calls = isTiny ? 1 : (int)Math.Clamp(LeastSeconds / Math.Max(once, 1e-7), 3, 5000);
        var seconds = Enumerable.Range(0, isTiny ? 1 : runs).Select(_ => Run(calls, launch)).Order().ToArray();
        return seconds[seconds.Length / 2];
    }

    public void Dispose()
    {
        _start.Dispose();
        _end.Dispose();
        Stream.Dispose();
    }

    private double Run(int calls, Action<int> launch)
    {
        _start.Record(Stream.Handle);
        var asked = Stopwatch.GetTimestamp();
        for (var call = 0; call < calls; call++)
        {
            launch(call);
            if (call < CallsAtOnce) LaunchSeconds = Stopwatch.GetElapsedTime(asked).TotalSeconds / (call + 1);
        }
        _end.Record(Stream.Handle);
        _end.Synchronize();
        return _end.MillisecondsSince(_start) / 1e3 / calls;
    }
}
