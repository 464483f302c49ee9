using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>What the machine reads from memory at this moment: the yardstick of decode.</summary>
internal sealed unsafe class ReadBandwidthProbe(IParallelRunner runner) : IDisposable
{
    private const int PieceBytes = 1 << 20;
    private const int PieceCount = 512;
    private readonly NativeMemoryBlock _memory = new NativeMemoryBlock((nint)PieceBytes * PieceCount).FillFloat(1, 1, runner);
    private readonly float[] _sums = new float[PieceCount];

    /// <summary>Bytes per second of one pass over 512 MB, with all threads of the runner.</summary>
    public double Measure() => Measure(runner);

    /// <summary>As <see cref="Measure()"/>, with one thread.</summary>
    public double MeasureOneThread() => Measure(SerialRunner.Instance);

    public void Dispose() => _memory.Dispose();

    private double Measure(IParallelRunner threads)
    {
        var start = Stopwatch.GetTimestamp();
        threads.For(PieceCount, piece => _sums[piece] = Sum((float*)(_memory.Pointer + (nint)piece * PieceBytes)));
        return (double)PieceBytes * PieceCount / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Sum(float* p)
    {
        Vector512<float> a = default, b = default, c = default, d = default;
        for (var end = p + PieceBytes / sizeof(float); p < end; p += 64)
        {
            a += Vector512.Load(p);
            b += Vector512.Load(p + 16);
            c += Vector512.Load(p + 32);
            d += Vector512.Load(p + 48);
        }
        return Vector512.Sum(a + b + (c + d));
    }
}
