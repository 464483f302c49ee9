using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

//  Products of weight rows and token rows, the inner part of Linear and Experts
//      W    [rows, K]         float32 or bfloat16
//      x    tokens × [K]      float, one pointer a token
//      y    [tokens, stride]  float, rows written
//  Math       y[t, r] = Σ W[r, k] · x[t, k]. One accumulator of 16 lanes an output: lane i adds k = i, i + 16, i + 32, ... in order by fused multiply-add,
//             the last 1 .. 15 columns are padded with zeros to a whole step; then lanes are summed by one fixed tree (ILanes.Fold, LaneMath.Sum).
//             Tiles only choose which outputs share a load, so no output depends on its neighbours.
//  Source     register blocking as in BLIS micro-kernels, without its blocking of K, which would change the order
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5 + 1e-5 · |y| at K = 4096 and |W · x| of order 1
internal static unsafe class DotTiles<TLanes, TWeight>
    where TLanes : unmanaged, ILanes<TLanes>
    where TWeight : unmanaged, IElement
{
    private const int Lanes = LaneMath<TLanes>.Count;
    /// <summary>Room for the padded last step of four weight rows and four token rows.</summary>
    private const int PadFloats = 8 * Lanes;

    /// <summary>All products of <paramref name="rowCount"/> weight rows, <paramref name="rowBytes"/> apart, with the tokens' rows.</summary>
    public static void Products(byte* weight, nint rowBytes, int rowCount, float** inputs, int tokenCount, nint columns, float* output, nint outputStride)
    {
        var pad = stackalloc float[PadFloats];
        var side = TLanes.HasManyRegisters ? 4 : 2;
        var t = 0;
        // A lone token at the end takes the tile of its own; two or three fill a tile of four with repetitions, which costs less than single passes over the weights.
        for (; tokenCount - t >= 2; t += side)
        {
            var tokens = Math.Min(side, tokenCount - t);
            for (var r = 0; r < rowCount; r += side)
            {
                var rows = Math.Min(side, rowCount - r);
                var w = weight + r * rowBytes;
                var y = output + t * outputStride + r;
                if (TLanes.HasManyRegisters) Tile4x4(w, rowBytes, rows, inputs + t, tokens, columns, y, outputStride, pad);
                else Tile2x2(w, rowBytes, rows, inputs + t, tokens, columns, y, outputStride, pad);
            }
        }
        if (t < tokenCount)
        {
            for (var r = 0; r < rowCount; r += 4)
                Tile4x1(weight + r * rowBytes, rowBytes, Math.Min(4, rowCount - r), inputs + t, columns, output + t * outputStride + r, pad);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile4x1(byte* weight, nint rowBytes, int rows, float** inputs, nint columns, float* y, float* pad)
    {
        if ((columns & (Lanes - 1)) != 0) Pad(weight, rowBytes, rows, 4, inputs, 1, 1, columns, pad);
        var x = inputs[0];
        byte* w0 = weight, w1 = Row(weight, rowBytes, 1, rows), w2 = Row(weight, rowBytes, 2, rows), w3 = Row(weight, rowBytes, 3, rows);
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0;
        // The weights arrive from memory once. The lines asked for here are those of the next tile at the same column: rows of a matrix follow one another.
        var ahead = 4 * rowBytes;
        nint k = 0;
        for (var end = columns & ~(Lanes - 1); ; end = k + Lanes)
        {
            for (; k < end; k += Lanes)
            {
                var offset = k * TWeight.Bytes;
                if (Sse.IsSupported)
                {
                    Sse.Prefetch1(w0 + offset + ahead);
                    Sse.Prefetch1(w1 + offset + ahead);
                    Sse.Prefetch1(w2 + offset + ahead);
                    Sse.Prefetch1(w3 + offset + ahead);
                }
                var a = TLanes.Load(x + k);
                s0 = TLanes.MultiplyAdd(TWeight.Load<TLanes>(w0 + offset), a, s0);
                s1 = TLanes.MultiplyAdd(TWeight.Load<TLanes>(w1 + offset), a, s1);
                s2 = TLanes.MultiplyAdd(TWeight.Load<TLanes>(w2 + offset), a, s2);
                s3 = TLanes.MultiplyAdd(TWeight.Load<TLanes>(w3 + offset), a, s3);
            }
            if (k >= columns) break;
            w0 = Padded(pad, 0, k);
            w1 = Padded(pad, 1, k);
            w2 = Padded(pad, 2, k);
            w3 = Padded(pad, 3, k);
            x = pad + 4 * Lanes - k;
        }
        Put(LaneMath<TLanes>.Sums(s0, s1, s2, s3), y, rows);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile4x4(byte* weight, nint rowBytes, int rows, float** inputs, int tokens, nint columns, float* y, nint stride, float* pad)
    {
        if ((columns & (Lanes - 1)) != 0) Pad(weight, rowBytes, rows, 4, inputs, tokens, 4, columns, pad);
        byte* w0 = weight, w1 = Row(weight, rowBytes, 1, rows), w2 = Row(weight, rowBytes, 2, rows), w3 = Row(weight, rowBytes, 3, rows);
        float* x0 = inputs[0], x1 = inputs[Math.Min(1, tokens - 1)], x2 = inputs[Math.Min(2, tokens - 1)], x3 = inputs[Math.Min(3, tokens - 1)];
        // s[row][token]
        TLanes s00 = TLanes.Zero, s01 = s00, s02 = s00, s03 = s00;
        TLanes s10 = s00, s11 = s00, s12 = s00, s13 = s00;
        TLanes s20 = s00, s21 = s00, s22 = s00, s23 = s00;
        TLanes s30 = s00, s31 = s00, s32 = s00, s33 = s00;
        nint k = 0;
        for (var end = columns & ~(Lanes - 1); ; end = k + Lanes)
        {
            for (; k < end; k += Lanes)
            {
                var offset = k * TWeight.Bytes;
                TLanes a0 = TWeight.Load<TLanes>(w0 + offset), a1 = TWeight.Load<TLanes>(w1 + offset);
                TLanes a2 = TWeight.Load<TLanes>(w2 + offset), a3 = TWeight.Load<TLanes>(w3 + offset);
                var b = TLanes.Load(x0 + k);
                s00 = TLanes.MultiplyAdd(a0, b, s00);
                s10 = TLanes.MultiplyAdd(a1, b, s10);
                s20 = TLanes.MultiplyAdd(a2, b, s20);
                s30 = TLanes.MultiplyAdd(a3, b, s30);
                b = TLanes.Load(x1 + k);
                s01 = TLanes.MultiplyAdd(a0, b, s01);
                s11 = TLanes.MultiplyAdd(a1, b, s11);
                s21 = TLanes.MultiplyAdd(a2, b, s21);
                s31 = TLanes.MultiplyAdd(a3, b, s31);
                b = TLanes.Load(x2 + k);
                s02 = TLanes.MultiplyAdd(a0, b, s02);
                s12 = TLanes.MultiplyAdd(a1, b, s12);
                s22 = TLanes.MultiplyAdd(a2, b, s22);
                s32 = TLanes.MultiplyAdd(a3, b, s32);
                b = TLanes.Load(x3 + k);
                s03 = TLanes.MultiplyAdd(a0, b, s03);
                s13 = TLanes.MultiplyAdd(a1, b, s13);
                s23 = TLanes.MultiplyAdd(a2, b, s23);
                s33 = TLanes.MultiplyAdd(a3, b, s33);
            }
            if (k >= columns) break;
            w0 = Padded(pad, 0, k);
            w1 = Padded(pad, 1, k);
            w2 = Padded(pad, 2, k);
            w3 = Padded(pad, 3, k);
            x0 = pad + 4 * Lanes - k;
            x1 = pad + 5 * Lanes - k;
            x2 = pad + 6 * Lanes - k;
            x3 = pad + 7 * Lanes - k;
        }
        // All sums first: a call between them would send the accumulators through memory, in the loop too.
        Vector128<float> y0 = LaneMath<TLanes>.Sums(s00, s10, s20, s30), y1 = LaneMath<TLanes>.Sums(s01, s11, s21, s31);
        Vector128<float> y2 = LaneMath<TLanes>.Sums(s02, s12, s22, s32), y3 = LaneMath<TLanes>.Sums(s03, s13, s23, s33);
        Put(y0, y, rows);
        if (tokens > 1) Put(y1, y + stride, rows);
        if (tokens > 2) Put(y2, y + 2 * stride, rows);
        if (tokens > 3) Put(y3, y + 3 * stride, rows);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile2x2(byte* weight, nint rowBytes, int rows, float** inputs, int tokens, nint columns, float* y, nint stride, float* pad)
    {
        if ((columns & (Lanes - 1)) != 0) Pad(weight, rowBytes, rows, 2, inputs, tokens, 2, columns, pad);
        byte* w0 = weight, w1 = Row(weight, rowBytes, 1, rows);
        float* x0 = inputs[0], x1 = inputs[Math.Min(1, tokens - 1)];
        TLanes s00 = TLanes.Zero, s01 = s00, s10 = s00, s11 = s00;
        nint k = 0;
        for (var end = columns & ~(Lanes - 1); ; end = k + Lanes)
        {
            for (; k < end; k += Lanes)
            {
                var offset = k * TWeight.Bytes;
                TLanes a0 = TWeight.Load<TLanes>(w0 + offset), a1 = TWeight.Load<TLanes>(w1 + offset);
                var b = TLanes.Load(x0 + k);
                s00 = TLanes.MultiplyAdd(a0, b, s00);
                s10 = TLanes.MultiplyAdd(a1, b, s10);
                b = TLanes.Load(x1 + k);
                s01 = TLanes.MultiplyAdd(a0, b, s01);
                s11 = TLanes.MultiplyAdd(a1, b, s11);
            }
            if (k >= columns) break;
            w0 = Padded(pad, 0, k);
            w1 = Padded(pad, 1, k);
            x0 = pad + 2 * Lanes - k;
            x1 = pad + 3 * Lanes - k;
        }
        var sums = LaneMath<TLanes>.Sums(s00, s10, s01, s11);
        Put(sums, y, rows);
        if (tokens > 1) Put(Vector128.Create(sums.GetUpper(), sums.GetUpper()), y + stride, rows);
    }

    /// <summary>Row <paramref name="index"/> of a tile, or its last one where the tile has fewer rows; the repeated products are not stored.</summary>
    private static byte* Row(byte* weight, nint rowBytes, int index, int rows) => weight + Math.Min(index, rows - 1) * rowBytes;

    private static void Put(Vector128<float> sums, float* y, int rows)
    {
        if (rows == 4)
        {
            sums.Store(y);
            return;
        }
        for (var r = 0; r < rows; r++) y[r] = sums[r];
    }

    /// <summary>
    /// Copies the last, incomplete step of a tile's weight rows, then of its token rows, into zeroed lanes. Done before the sums begin, for the same reason.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Pad(byte* weight, nint rowBytes, int rows, int rowSide, float** inputs, int tokens, int tokenSide, nint columns, float* pad)
    {
        var first = columns & ~(Lanes - 1);
        var count = (int)(columns - first);
        new Span<float>(pad, PadFloats).Clear();
        for (var r = 0; r < rowSide; r++, pad += Lanes)
            new Span<byte>(Row(weight, rowBytes, r, rows) + first * TWeight.Bytes, count * TWeight.Bytes).CopyTo(new Span<byte>(pad, Lanes * sizeof(float)));
        for (var t = 0; t < tokenSide; t++, pad += Lanes)
            new Span<float>(inputs[Math.Min(t, tokens - 1)] + first, count).CopyTo(new Span<float>(pad, Lanes));
    }

    /// <summary>A pointer whose column k is the first of the padded ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Padded(float* pad, int index, nint k) => (byte*)(pad + index * Lanes) - k * TWeight.Bytes;
}
