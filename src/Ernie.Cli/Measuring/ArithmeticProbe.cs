using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>
/// What the machine multiplies and adds at this moment, from registers alone: the yardstick of prefill. A multiplication and its addition count as two operations.
/// </summary>
internal sealed class ArithmeticProbe(IParallelRunner runner)
{
    private const int PieceCount = 32;
    private const int Rounds = 50_000;
    /// <summary>Independent sums: enough that no operation waits for the one before it, few enough for 16 registers.</summary>
    private const int Sums = 10;
    private readonly float[] _results = new float[PieceCount];

    /// <summary>Float multiply-adds, in operations per second, with all threads of the runner.</summary>
    public double MeasureFloat() => Vector512.IsHardwareAccelerated ? Measure(16, static piece => Float512(piece))
        : Vector256.IsHardwareAccelerated ? Measure(8, static piece => Float256(piece)) : Measure(4, static piece => Float128(piece));

    /// <summary>
    /// Products of unsigned and signed bytes summed in 16 bits, the instructions of the packed formats' kernels, in operations per second; null where the machine is no x64 with AVX2.
    /// </summary>
    public double? MeasureInt8() => Avx512BW.IsSupported ? Measure(64, static piece => Int512(piece)) : Avx2.IsSupported ? Measure(32, static piece => Int256(piece)) : null;

    private double Measure(int productsOfOne, Func<int, float> body)
    {
        var start = Stopwatch.GetTimestamp();
        // What nobody reads, a compiler may leave out.
        runner.For(PieceCount, piece => _results[piece] = body(piece));
        return 2.0 * productsOfOne * Sums * Rounds * PieceCount / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Float512(int seed)
    {
        Vector512<float> x = Vector512.Create(1e-3f * seed), y = Vector512.Create(0.5f), a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
        for (var round = 0; round < Rounds; round++)
        {
            a = Vector512.FusedMultiplyAdd(a, y, x);
            b = Vector512.FusedMultiplyAdd(b, y, x);
            c = Vector512.FusedMultiplyAdd(c, y, x);
            d = Vector512.FusedMultiplyAdd(d, y, x);
            e = Vector512.FusedMultiplyAdd(e, y, x);
            f = Vector512.FusedMultiplyAdd(f, y, x);
            g = Vector512.FusedMultiplyAdd(g, y, x);
            h = Vector512.FusedMultiplyAdd(h, y, x);
            i = Vector512.FusedMultiplyAdd(i, y, x);
            j = Vector512.FusedMultiplyAdd(j, y, x);
        }
        return Vector512.Sum(a + b + c + d + e + (f + g + h + i + j));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Float256(int seed)
    {
        Vector256<float> x = Vector256.Create(1e-3f * seed), y = Vector256.Create(0.5f), a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
        for (var round = 0; round < Rounds; round++)
        {
            a = Vector256.FusedMultiplyAdd(a, y, x);
            b = Vector256.FusedMultiplyAdd(b, y, x);
            c = Vector256.FusedMultiplyAdd(c, y, x);
            d = Vector256.FusedMultiplyAdd(d, y, x);
            e = Vector256.FusedMultiplyAdd(e, y, x);
            f = Vector256.FusedMultiplyAdd(f, y, x);
            g = Vector256.FusedMultiplyAdd(g, y, x);
            h = Vector256.FusedMultiplyAdd(h, y, x);
            i = Vector256.FusedMultiplyAdd(i, y, x);
            j = Vector256.FusedMultiplyAdd(j, y, x);
        }
        return Vector256.Sum(a + b + c + d + e + (f + g + h + i + j));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Float128(int seed)
    {
        Vector128<float> x = Vector128.Create(1e-3f * seed), y = Vector128.Create(0.5f), a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
        for (var round = 0; round < Rounds; round++)
        {
            a = Vector128.MultiplyAddEstimate(a, y, x);
            b = Vector128.MultiplyAddEstimate(b, y, x);
            c = Vector128.MultiplyAddEstimate(c, y, x);
            d = Vector128.MultiplyAddEstimate(d, y, x);
            e = Vector128.MultiplyAddEstimate(e, y, x);
            f = Vector128.MultiplyAddEstimate(f, y, x);
            g = Vector128.MultiplyAddEstimate(g, y, x);
            h = Vector128.MultiplyAddEstimate(h, y, x);
            i = Vector128.MultiplyAddEstimate(i, y, x);
            j = Vector128.MultiplyAddEstimate(j, y, x);
        }
        return Vector128.Sum(a + b + c + d + e + (f + g + h + i + j));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe float Int512(int seed)
    {
        var bytes = stackalloc byte[1152];
        new Span<byte>(bytes, 1152).Fill((byte)seed);
        var y = Vector512.Create((sbyte)3);
        Vector512<short> a = default, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
        for (var round = 0; round < Rounds; round++)
        {
            var p = bytes + (round & 7) * 64; // moves, so that no product can be computed once for all rounds
            a += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 0), y);
            b += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 64), y);
            c += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 128), y);
            d += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 192), y);
            e += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 256), y);
            f += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 320), y);
            g += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 384), y);
            h += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 448), y);
            i += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 512), y);
            j += Avx512BW.MultiplyAddAdjacent(Vector512.Load(p + 576), y);
        }
        return Vector512.Sum(a + b + c + d + e + (f + g + h + i + j));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe float Int256(int seed)
    {
        var bytes = stackalloc byte[576];
        new Span<byte>(bytes, 576).Fill((byte)seed);
        var y = Vector256.Create((sbyte)3);
        Vector256<short> a = default, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
        for (var round = 0; round < Rounds; round++)
        {
            var p = bytes + (round & 7) * 32; // moves, so that no product can be computed once for all rounds
            a += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 0), y);
            b += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 32), y);
            c += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 64), y);
            d += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 96), y);
            e += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 128), y);
            f += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 160), y);
            g += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 192), y);
            h += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 224), y);
            i += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 256), y);
            j += Avx2.MultiplyAddAdjacent(Vector256.Load(p + 288), y);
        }
        return Vector256.Sum(a + b + c + d + e + (f + g + h + i + j));
    }
}
