using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

/// <summary>Functions of sixteen lanes, built from the operations of <see cref="ILanes{TSelf}"/> and therefore equal in bits on every instruction set.</summary>
internal static unsafe class LaneMath<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    public const int Count = 16;

    /// <summary>Second half of the reduction tree of <see cref="ILanes{TSelf}.Fold"/>: (f[0] + f[2]) + (f[1] + f[3]).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(TLanes a)
    {
        var f = TLanes.Fold(a);
        return (f[0] + f[2]) + (f[1] + f[3]);
    }

    /// <summary>Four sums at once, each by the tree of <see cref="Sum"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Sums(TLanes a, TLanes b, TLanes c, TLanes d)
    {
        Vector128<float> fa = TLanes.Fold(a), fb = TLanes.Fold(b), fc = TLanes.Fold(c), fd = TLanes.Fold(d);
        if (Sse.IsSupported)
        {
            // ab = a0+a2, b0+b2, a1+a3, b1+b3
            var ab = Sse.UnpackLow(fa, fb) + Sse.UnpackHigh(fa, fb);
            var cd = Sse.UnpackLow(fc, fd) + Sse.UnpackHigh(fc, fd);
            return Sse.MoveLowToHigh(ab, cd) + Sse.MoveHighToLow(cd, ab);
        }
        if (AdvSimd.Arm64.IsSupported)
        {
            var ab = AdvSimd.Arm64.ZipLow(fa, fb) + AdvSimd.Arm64.ZipHigh(fa, fb);
            var cd = AdvSimd.Arm64.ZipLow(fc, fd) + AdvSimd.Arm64.ZipHigh(fc, fd);
            return Vector128.Create(ab.GetLower(), cd.GetLower()) + Vector128.Create(ab.GetUpper(), cd.GetUpper());
        }
        return Vector128.Create(
            (fa[0] + fa[2]) + (fa[1] + fa[3]), (fb[0] + fb[2]) + (fb[1] + fb[3]), (fc[0] + fc[2]) + (fc[1] + fc[3]), (fd[0] + fd[2]) + (fd[1] + fd[3]));
    }

    /// <summary>The first <paramref name="count"/> &lt; 16 floats; the other lanes hold <paramref name="filler"/>. Reads nothing beyond them.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static TLanes LoadFirst(float* source, int count, float filler = 0)
    {
        Debug.Assert(count is >= 0 and < Count);
        var lanes = stackalloc float[Count];
        for (var i = 0; i < Count; i++) lanes[i] = i < count ? source[i] : filler;
        return TLanes.Load(lanes);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void StoreFirst(TLanes value, float* target, int count)
    {
        Debug.Assert(count is >= 0 and < Count);
        var lanes = stackalloc float[Count];
        TLanes.Store(value, lanes);
        for (var i = 0; i < count; i++) target[i] = lanes[i];
    }

    /// <summary>Largest lane that is not NaN; -∞ if there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Max(TLanes a)
    {
        var lanes = stackalloc float[Count];
        TLanes.Store(a, lanes);
        var max = Vector128.Create(float.NegativeInfinity);
        for (var i = 0; i < Count; i += 4) max = Larger(max, Vector128.Load(lanes + i));
        max = Larger(max, Vector128.Shuffle(max, Vector128.Create(2, 3, 0, 1)));
        return Larger(max, Vector128.Shuffle(max, Vector128.Create(1, 0, 3, 2)))[0];

        static Vector128<float> Larger(Vector128<float> a, Vector128<float> b) => Vector128.ConditionalSelect(Vector128.LessThan(a, b), b, a);
    }

    /// <summary>
    /// e^x to 2 units in the last place; 0 below the normal numbers (x &lt; -87.33), ∞ above 88.72, NaN for NaN, and exactly 1 for 0.
    /// </summary>
    /// <remarks>x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts, e^r by the polynomial of Cephes' expf.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Exp(TLanes x)
    {
        var lowest = TLanes.Broadcast(-87.33654f);
        var highest = TLanes.Broadcast(89f);
        var clamped = TLanes.SelectLess(x, lowest, lowest, x);
        clamped = TLanes.SelectLess(highest, clamped, highest, clamped);
        var n = TLanes.Round(TLanes.Multiply(clamped, TLanes.Broadcast(1.44269504f)));
        var r = TLanes.MultiplyAdd(n, TLanes.Broadcast(-0.693359375f), clamped);
        r = TLanes.MultiplyAdd(n, TLanes.Broadcast(2.12194440e-4f), r);
        var p = TLanes.Broadcast(1.9875691500e-4f);
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1.3981999507e-3f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(8.3334519073e-3f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(4.1665795894e-2f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1.6666665459e-1f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(5.0000001201e-1f));
        p = TLanes.Add(TLanes.MultiplyAdd(TLanes.Multiply(r, r), p, r), TLanes.Broadcast(1));
        return TLanes.SelectLess(x, lowest, TLanes.Zero, TLanes.Scale(p, n));
    }

    public static float Exp(float x)
    {
        var lanes = stackalloc float[Count];
        TLanes.Store(Exp(TLanes.Broadcast(x)), lanes);
        return lanes[0];
    }

    /// <summary>silu(gate) · up, silu(g) = g / (1 + e^-g).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes SwiGlu(TLanes gate, TLanes up)
    {
        var denominator = TLanes.Add(TLanes.Broadcast(1), Exp(TLanes.Subtract(TLanes.Zero, gate)));
        return TLanes.Multiply(TLanes.Divide(gate, denominator), up);
    }

    /// <summary>output[i] = silu(gate[i]) · up[i].</summary>
    public static void SwiGlu(float* gate, float* up, float* output, int count)
    {
        var i = 0;
        for (; i + Count <= count; i += Count) TLanes.Store(SwiGlu(TLanes.Load(gate + i), TLanes.Load(up + i)), output + i);
        if (i < count) StoreFirst(SwiGlu(LoadFirst(gate + i, count - i), LoadFirst(up + i, count - i)), output + i, count - i);
    }
}
