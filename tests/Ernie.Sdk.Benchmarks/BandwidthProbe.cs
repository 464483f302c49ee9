using System.Diagnostics;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Benchmarks;

/// <summary>What the machine reads from memory with all threads at this moment: the yardstick of decode kernels.</summary>
internal sealed unsafe class BandwidthProbe(IParallelRunner runner) : IDisposable
{
    private const int PieceBytes = 1 << 20;
    private const int PieceCount = 512;
    private readonly NativeMemoryBlock _memory = new NativeMemoryBlock((nint)PieceBytes * PieceCount).FillFloat(1, 1, runner);
    private readonly float[] _sums = new float[PieceCount];

    /// <summary>Bytes per second of one pass over 512 MB.</summary>
    public double Measure()
    {
        var start = Stopwatch.GetTimestamp();
        runner.For(PieceCount, piece =>
        {
            var p = (float*)(_memory.Pointer + (nint)piece * PieceBytes);
            Vector512<float> a = default, b = default, c = default, d = default;
            for (var i = 0; i < PieceBytes / sizeof(float); i += 64)
            {
                a += Vector512.Load(p + i);
                b += Vector512.Load(p + i + 16);
                c += Vector512.Load(p + i + 32);
                d += Vector512.Load(p + i + 48);
            }
            _sums[piece] = Vector512.Sum(a + b + (c + d));
        });
        return (double)PieceBytes * PieceCount / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    public void Dispose() => _memory.Dispose();
}
