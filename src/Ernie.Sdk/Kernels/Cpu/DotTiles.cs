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
                Tile4x1(weight + r * rowBytes, rowBytes, Math.Min(4, rowCount - r), inputs[t], columns, output + t * outputStride + r, pad);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile4x1(byte* weight, nint rowBytes, int rows, float* x, nint columns, float* y, float* pad)
    {
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
            w0 = PadWeight(w0, k, columns, pad);
            w1 = PadWeight(w1, k, columns, pad + Lanes);
            w2 = PadWeight(w2, k, columns, pad + 2 * Lanes);
            w3 = PadWeight(w3, k, columns, pad + 3 * Lanes);
            x = PadInput(x, k, columns, pad + 4 * Lanes);
        }
        Put(LaneMath<TLanes>.Sums(s0, s1, s2, s3), y, rows);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile4x4(byte* weight, nint rowBytes, int rows, float** inputs, int tokens, nint columns, float* y, nint stride, float* pad)
    {
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
            w0 = PadWeight(w0, k, columns, pad);
            w1 = PadWeight(w1, k, columns, pad + Lanes);
            w2 = PadWeight(w2, k, columns, pad + 2 * Lanes);
            w3 = PadWeight(w3, k, columns, pad + 3 * Lanes);
            x0 = PadInput(x0, k, columns, pad + 4 * Lanes);
            x1 = PadInput(x1, k, columns, pad + 5 * Lanes);
            x2 = PadInput(x2, k, columns, pad + 6 * Lanes);
            x3 = PadInput(x3, k, columns, pad + 7 * Lanes);
        }
        Put(LaneMath<TLanes>.Sums(s00, s10, s20, s30), y, rows);
        if (tokens > 1) Put(LaneMath<TLanes>.Sums(s01, s11, s21, s31), y + stride, rows);
        if (tokens > 2) Put(LaneMath<TLanes>.Sums(s02, s12, s22, s32), y + 2 * stride, rows);
        if (tokens > 3) Put(LaneMath<TLanes>.Sums(s03, s13, s23, s33), y + 3 * stride, rows);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile2x2(byte* weight, nint rowBytes, int rows, float** inputs, int tokens, nint columns, float* y, nint stride, float* pad)
    {
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
            w0 = PadWeight(w0, k, columns, pad);
            w1 = PadWeight(w1, k, columns, pad + Lanes);
            x0 = PadInput(x0, k, columns, pad + 2 * Lanes);
            x1 = PadInput(x1, k, columns, pad + 3 * Lanes);
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

    // Both copy columns k .. columns-1 into zeroed lanes and return a pointer whose element k is the first of them.
    private static byte* PadWeight(byte* row, nint k, nint columns, float* pad)
    {
        var source = row + k * TWeight.Bytes;
        var bytes = (columns - k) * TWeight.Bytes;
        for (nint i = 0; i < Lanes * TWeight.Bytes; i++) ((byte*)pad)[i] = i < bytes ? source[i] : (byte)0;
        return (byte*)pad - k * TWeight.Bytes;
    }

    private static float* PadInput(float* row, nint k, nint columns, float* pad)
    {
        for (nint i = 0; i < Lanes; i++) pad[i] = k + i < columns ? row[k + i] : 0;
        return pad - k;
    }
}
