using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Kernels;

//  Scores and weighted values of one block of the cache, the inner parts of Attention
//      q       rows of [headDim]            float, scaled by 1 / √headDim
//      keys    [8 tiles, headDim, 16]       cache type, one KV head of one block
//      values  [128, headDim]               cache type, one KV head of one block
//      s       rows of [128]                float
//      acc     rows of [headDim rounded up to 16]   float
//  Math       s[q, j] = Σ q[c] · k[j, c], c in order;  acc[q, d] += Σ s[q, j] · v[j, d], j in order; both by fused multiply-add
//  Source     a key tile is transposed, so 16 positions share one load and no sum crosses lanes; four or five queries share each load
//  Reference  Kernels/Reference/ReferenceAttention.cs
//  Tolerance  see VectorAttention
internal static unsafe class AttentionTiles<TLanes, TCache>
    where TLanes : unmanaged, ILanes<TLanes>
    where TCache : unmanaged, IElement
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int ScoreStride = KvBlockLayout.BlockSize;

    /// <summary>How many of the remaining queries share loads: four, or a last five, the heads of one token.</summary>
    public static int QueriesTogether(int remaining) => remaining == 5 ? 5 : remaining >= 4 ? 4 : 1;

    /// <summary>Scores of all positions in the first tiles of a block. Tiles may be half or not at all written: their scores are then garbage in their own lanes only.</summary>
    public static void Scores(float* queries, int queryStride, int queryCount, byte* keys, int headDim, int positionCount, float* scores)
    {
        var tiles = (positionCount + Lanes - 1) / Lanes;
        nint tileBytes = (nint)headDim * Lanes * TCache.Bytes;
        for (int q = 0, together; q < queryCount; q += together)
        {
            together = QueriesTogether(queryCount - q);
            var query = queries + q * queryStride;
            var s = scores + q * ScoreStride;
            // Eight or ten accumulators keep two multipliers busy; where registers are few, four or five.
            var step = together == 1 ? 4 : TLanes.HasManyRegisters ? 2 : 1;
            for (var tile = 0; tile < tiles; tile += step, s += step * Lanes)
            {
                var key = keys + tile * tileBytes;
                if (together == 1) Scores1x4(query, key, tileBytes, headDim, s);
                else if (together == 5 && TLanes.HasManyRegisters) Scores5x2(query, queryStride, key, tileBytes, headDim, s);
                else if (together == 5) Scores5x1(query, queryStride, key, headDim, s);
                else if (TLanes.HasManyRegisters) Scores4x2(query, queryStride, key, tileBytes, headDim, s);
                else Scores4x1(query, queryStride, key, headDim, s);
            }
        }
    }

    /// <summary>
    /// Adds the values of positions [begin, end), weighted, to one accumulator a query. A row is read in whole lanes: what lies past its end stays in lanes that nobody stores,
    /// and the last row of a block is followed by at least 15 elements of summaries and padding.
    /// </summary>
    public static void Values(float* weights, int queryCount, byte* values, int headDim, int begin, int end, float* accumulators, int stride)
    {
        var groups = stride / Lanes;
        for (int q = 0, together; q < queryCount; q += together)
        {
            together = QueriesTogether(queryCount - q);
            var w = weights + q * ScoreStride;
            var acc = accumulators + q * stride;
            for (int g = 0, step; g < groups; g += step)
            {
                var v = values + (nint)g * Lanes * TCache.Bytes;
                step = together == 1 ? groups - g >= 4 ? 4 : 1 : TLanes.HasManyRegisters && groups - g >= 2 ? 2 : 1;
                if (together == 1 && step == 4) Values1x4(w, v, headDim, begin, end, acc + g * Lanes);
                else if (together == 1) Values1x1(w, v, headDim, begin, end, acc + g * Lanes);
                else if (together == 5 && step == 2) Values5x2(w, v, headDim, begin, end, acc + g * Lanes, stride);
                else if (together == 5) Values5x1(w, v, headDim, begin, end, acc + g * Lanes, stride);
                else if (step == 2) Values4x2(w, v, headDim, begin, end, acc + g * Lanes, stride);
                else Values4x1(w, v, headDim, begin, end, acc + g * Lanes, stride);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4x2(float* q, int queryStride, byte* tile, nint tileBytes, int headDim, float* scores)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride;
        TLanes s00 = TLanes.Zero, s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
        for (var c = 0; c < headDim; c++, tile += Lanes * TCache.Bytes)
        {
            TLanes k0 = TCache.Load<TLanes>(tile), k1 = TCache.Load<TLanes>(tile + tileBytes);
            var b = TLanes.Broadcast(q[c]);
            s00 = TLanes.MultiplyAdd(b, k0, s00);
            s01 = TLanes.MultiplyAdd(b, k1, s01);
            b = TLanes.Broadcast(q1[c]);
            s10 = TLanes.MultiplyAdd(b, k0, s10);
            s11 = TLanes.MultiplyAdd(b, k1, s11);
            b = TLanes.Broadcast(q2[c]);
            s20 = TLanes.MultiplyAdd(b, k0, s20);
            s21 = TLanes.MultiplyAdd(b, k1, s21);
            b = TLanes.Broadcast(q3[c]);
            s30 = TLanes.MultiplyAdd(b, k0, s30);
            s31 = TLanes.MultiplyAdd(b, k1, s31);
        }
        TLanes.Store(s00, scores);
        TLanes.Store(s01, scores + Lanes);
        TLanes.Store(s10, scores + ScoreStride);
        TLanes.Store(s11, scores + ScoreStride + Lanes);
        TLanes.Store(s20, scores + 2 * ScoreStride);
        TLanes.Store(s21, scores + 2 * ScoreStride + Lanes);
        TLanes.Store(s30, scores + 3 * ScoreStride);
        TLanes.Store(s31, scores + 3 * ScoreStride + Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4x1(float* q, int queryStride, byte* tile, int headDim, float* scores)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride;
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0;
        for (var c = 0; c < headDim; c++, tile += Lanes * TCache.Bytes)
        {
            var k = TCache.Load<TLanes>(tile);
            s0 = TLanes.MultiplyAdd(TLanes.Broadcast(q[c]), k, s0);
            s1 = TLanes.MultiplyAdd(TLanes.Broadcast(q1[c]), k, s1);
            s2 = TLanes.MultiplyAdd(TLanes.Broadcast(q2[c]), k, s2);
            s3 = TLanes.MultiplyAdd(TLanes.Broadcast(q3[c]), k, s3);
        }
        TLanes.Store(s0, scores);
        TLanes.Store(s1, scores + ScoreStride);
        TLanes.Store(s2, scores + 2 * ScoreStride);
        TLanes.Store(s3, scores + 3 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores5x2(float* q, int queryStride, byte* tile, nint tileBytes, int headDim, float* scores)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride, q4 = q3 + queryStride;
        TLanes s00 = TLanes.Zero, s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00, s40 = s00, s41 = s00;
        for (var c = 0; c < headDim; c++, tile += Lanes * TCache.Bytes)
        {
            TLanes k0 = TCache.Load<TLanes>(tile), k1 = TCache.Load<TLanes>(tile + tileBytes);
            var b = TLanes.Broadcast(q[c]);
            s00 = TLanes.MultiplyAdd(b, k0, s00);
            s01 = TLanes.MultiplyAdd(b, k1, s01);
            b = TLanes.Broadcast(q1[c]);
            s10 = TLanes.MultiplyAdd(b, k0, s10);
            s11 = TLanes.MultiplyAdd(b, k1, s11);
            b = TLanes.Broadcast(q2[c]);
            s20 = TLanes.MultiplyAdd(b, k0, s20);
            s21 = TLanes.MultiplyAdd(b, k1, s21);
            b = TLanes.Broadcast(q3[c]);
            s30 = TLanes.MultiplyAdd(b, k0, s30);
            s31 = TLanes.MultiplyAdd(b, k1, s31);
            b = TLanes.Broadcast(q4[c]);
            s40 = TLanes.MultiplyAdd(b, k0, s40);
            s41 = TLanes.MultiplyAdd(b, k1, s41);
        }
        TLanes.Store(s00, scores);
        TLanes.Store(s01, scores + Lanes);
        TLanes.Store(s10, scores + ScoreStride);
        TLanes.Store(s11, scores + ScoreStride + Lanes);
        TLanes.Store(s20, scores + 2 * ScoreStride);
        TLanes.Store(s21, scores + 2 * ScoreStride + Lanes);
        TLanes.Store(s30, scores + 3 * ScoreStride);
        TLanes.Store(s31, scores + 3 * ScoreStride + Lanes);
        TLanes.Store(s40, scores + 4 * ScoreStride);
        TLanes.Store(s41, scores + 4 * ScoreStride + Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores5x1(float* q, int queryStride, byte* tile, int headDim, float* scores)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride, q4 = q3 + queryStride;
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0, s4 = s0;
        for (var c = 0; c < headDim; c++, tile += Lanes * TCache.Bytes)
        {
            var k = TCache.Load<TLanes>(tile);
            s0 = TLanes.MultiplyAdd(TLanes.Broadcast(q[c]), k, s0);
            s1 = TLanes.MultiplyAdd(TLanes.Broadcast(q1[c]), k, s1);
            s2 = TLanes.MultiplyAdd(TLanes.Broadcast(q2[c]), k, s2);
            s3 = TLanes.MultiplyAdd(TLanes.Broadcast(q3[c]), k, s3);
            s4 = TLanes.MultiplyAdd(TLanes.Broadcast(q4[c]), k, s4);
        }
        TLanes.Store(s0, scores);
        TLanes.Store(s1, scores + ScoreStride);
        TLanes.Store(s2, scores + 2 * ScoreStride);
        TLanes.Store(s3, scores + 3 * ScoreStride);
        TLanes.Store(s4, scores + 4 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores1x4(float* q, byte* tile, nint tileBytes, int headDim, float* scores)
    {
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0;
        for (var c = 0; c < headDim; c++, tile += Lanes * TCache.Bytes)
        {
            var b = TLanes.Broadcast(q[c]);
            s0 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(tile), s0);
            s1 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(tile + tileBytes), s1);
            s2 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(tile + 2 * tileBytes), s2);
            s3 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(tile + 3 * tileBytes), s3);
        }
        TLanes.Store(s0, scores);
        TLanes.Store(s1, scores + Lanes);
        TLanes.Store(s2, scores + 2 * Lanes);
        TLanes.Store(s3, scores + 3 * Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values4x2(float* w, byte* values, int headDim, int begin, int end, float* acc, int stride)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride;
        TLanes a00 = TLanes.Load(acc), a01 = TLanes.Load(acc + Lanes), a10 = TLanes.Load(acc1), a11 = TLanes.Load(acc1 + Lanes);
        TLanes a20 = TLanes.Load(acc2), a21 = TLanes.Load(acc2 + Lanes), a30 = TLanes.Load(acc3), a31 = TLanes.Load(acc3 + Lanes);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes)
        {
            TLanes v0 = TCache.Load<TLanes>(row), v1 = TCache.Load<TLanes>(row + Lanes * TCache.Bytes);
            var b = TLanes.Broadcast(w[j]);
            a00 = TLanes.MultiplyAdd(b, v0, a00);
            a01 = TLanes.MultiplyAdd(b, v1, a01);
            b = TLanes.Broadcast(w1[j]);
            a10 = TLanes.MultiplyAdd(b, v0, a10);
            a11 = TLanes.MultiplyAdd(b, v1, a11);
            b = TLanes.Broadcast(w2[j]);
            a20 = TLanes.MultiplyAdd(b, v0, a20);
            a21 = TLanes.MultiplyAdd(b, v1, a21);
            b = TLanes.Broadcast(w3[j]);
            a30 = TLanes.MultiplyAdd(b, v0, a30);
            a31 = TLanes.MultiplyAdd(b, v1, a31);
        }
        TLanes.Store(a00, acc);
        TLanes.Store(a01, acc + Lanes);
        TLanes.Store(a10, acc1);
        TLanes.Store(a11, acc1 + Lanes);
        TLanes.Store(a20, acc2);
        TLanes.Store(a21, acc2 + Lanes);
        TLanes.Store(a30, acc3);
        TLanes.Store(a31, acc3 + Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values4x1(float* w, byte* values, int headDim, int begin, int end, float* acc, int stride)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride;
        TLanes a0 = TLanes.Load(acc), a1 = TLanes.Load(acc1), a2 = TLanes.Load(acc2), a3 = TLanes.Load(acc3);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes)
        {
            var v = TCache.Load<TLanes>(row);
            a0 = TLanes.MultiplyAdd(TLanes.Broadcast(w[j]), v, a0);
            a1 = TLanes.MultiplyAdd(TLanes.Broadcast(w1[j]), v, a1);
            a2 = TLanes.MultiplyAdd(TLanes.Broadcast(w2[j]), v, a2);
            a3 = TLanes.MultiplyAdd(TLanes.Broadcast(w3[j]), v, a3);
        }
        TLanes.Store(a0, acc);
        TLanes.Store(a1, acc1);
        TLanes.Store(a2, acc2);
        TLanes.Store(a3, acc3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values5x2(float* w, byte* values, int headDim, int begin, int end, float* acc, int stride)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride, w4 = w3 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride, acc4 = acc3 + stride;
        TLanes a00 = TLanes.Load(acc), a01 = TLanes.Load(acc + Lanes), a10 = TLanes.Load(acc1), a11 = TLanes.Load(acc1 + Lanes), a20 = TLanes.Load(acc2);
        TLanes a21 = TLanes.Load(acc2 + Lanes), a30 = TLanes.Load(acc3), a31 = TLanes.Load(acc3 + Lanes), a40 = TLanes.Load(acc4), a41 = TLanes.Load(acc4 + Lanes);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes)
        {
            TLanes v0 = TCache.Load<TLanes>(row), v1 = TCache.Load<TLanes>(row + Lanes * TCache.Bytes);
            var b = TLanes.Broadcast(w[j]);
            a00 = TLanes.MultiplyAdd(b, v0, a00);
            a01 = TLanes.MultiplyAdd(b, v1, a01);
            b = TLanes.Broadcast(w1[j]);
            a10 = TLanes.MultiplyAdd(b, v0, a10);
            a11 = TLanes.MultiplyAdd(b, v1, a11);
            b = TLanes.Broadcast(w2[j]);
            a20 = TLanes.MultiplyAdd(b, v0, a20);
            a21 = TLanes.MultiplyAdd(b, v1, a21);
            b = TLanes.Broadcast(w3[j]);
            a30 = TLanes.MultiplyAdd(b, v0, a30);
            a31 = TLanes.MultiplyAdd(b, v1, a31);
            b = TLanes.Broadcast(w4[j]);
            a40 = TLanes.MultiplyAdd(b, v0, a40);
            a41 = TLanes.MultiplyAdd(b, v1, a41);
        }
        TLanes.Store(a00, acc);
        TLanes.Store(a01, acc + Lanes);
        TLanes.Store(a10, acc1);
        TLanes.Store(a11, acc1 + Lanes);
        TLanes.Store(a20, acc2);
        TLanes.Store(a21, acc2 + Lanes);
        TLanes.Store(a30, acc3);
        TLanes.Store(a31, acc3 + Lanes);
        TLanes.Store(a40, acc4);
        TLanes.Store(a41, acc4 + Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values5x1(float* w, byte* values, int headDim, int begin, int end, float* acc, int stride)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride, w4 = w3 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride, acc4 = acc3 + stride;
        TLanes a0 = TLanes.Load(acc), a1 = TLanes.Load(acc1), a2 = TLanes.Load(acc2);
        TLanes a3 = TLanes.Load(acc3), a4 = TLanes.Load(acc4);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes)
        {
            var v = TCache.Load<TLanes>(row);
            a0 = TLanes.MultiplyAdd(TLanes.Broadcast(w[j]), v, a0);
            a1 = TLanes.MultiplyAdd(TLanes.Broadcast(w1[j]), v, a1);
            a2 = TLanes.MultiplyAdd(TLanes.Broadcast(w2[j]), v, a2);
            a3 = TLanes.MultiplyAdd(TLanes.Broadcast(w3[j]), v, a3);
            a4 = TLanes.MultiplyAdd(TLanes.Broadcast(w4[j]), v, a4);
        }
        TLanes.Store(a0, acc);
        TLanes.Store(a1, acc1);
        TLanes.Store(a2, acc2);
        TLanes.Store(a3, acc3);
        TLanes.Store(a4, acc4);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values1x4(float* w, byte* values, int headDim, int begin, int end, float* acc)
    {
        TLanes a0 = TLanes.Load(acc), a1 = TLanes.Load(acc + Lanes), a2 = TLanes.Load(acc + 2 * Lanes), a3 = TLanes.Load(acc + 3 * Lanes);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes)
        {
            var b = TLanes.Broadcast(w[j]);
            a0 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(row), a0);
            a1 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(row + Lanes * TCache.Bytes), a1);
            a2 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(row + 2 * Lanes * TCache.Bytes), a2);
            a3 = TLanes.MultiplyAdd(b, TCache.Load<TLanes>(row + 3 * Lanes * TCache.Bytes), a3);
        }
        TLanes.Store(a0, acc);
        TLanes.Store(a1, acc + Lanes);
        TLanes.Store(a2, acc + 2 * Lanes);
        TLanes.Store(a3, acc + 3 * Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values1x1(float* w, byte* values, int headDim, int begin, int end, float* acc)
    {
        var a = TLanes.Load(acc);
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin; j < end; j++, row += rowBytes) a = TLanes.MultiplyAdd(TLanes.Broadcast(w[j]), TCache.Load<TLanes>(row), a);
        TLanes.Store(a, acc);
    }
}
