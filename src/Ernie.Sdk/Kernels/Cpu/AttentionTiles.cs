using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

//  Scores and weighted values of one block of the cache, the inner parts of Attention
//      q       rows of [headDim]            float, scaled by 1 / √headDim; with an int8 cache packed as 16-bit integers, two in the place of a float, and a scale
//      keys    [8 tiles, headDim, 16]       cache type, one KV head of one block
//      values  [128, headDim]               cache type, one KV head of one block
//      s       rows of [128]                float; as weights packed like q
//      acc     rows of [headDim rounded up to 16]   float
//  Math       s[q, j] = Σ q[c] · k[j, c], c in order;  acc[q, d] += Σ s[q, j] · v[j, d], j in order; both by fused multiply-add,
//             or exactly in 32-bit integers, scaled at the end, where the cache is int8
//  Source     a key tile is transposed, so 16 positions share one load and no sum crosses lanes; four or five queries share each load
//  Reference  Kernels/Reference/ReferenceAttention.cs
//  Tolerance  see VectorAttention
internal static unsafe class AttentionTiles<TLanes, TCache>
    where TLanes : unmanaged, ILanes<TLanes>
    where TCache : unmanaged, ICacheElement
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int ScoreStride = KvBlockLayout.BlockSize;
    /// <summary>Bytes of sixteen lanes of one multiply-add.</summary>
    private static int StepBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Lanes * TCache.Together * TCache.Bytes;
    }

    /// <summary>How many of the remaining queries share loads: four, or five where that leaves no rest.</summary>
    public static int QueriesTogether(int remaining) => remaining % 5 == 0 && remaining % 4 != 0 ? 5 : remaining >= 4 ? 4 : 1;

    /// <summary>Scores of all positions in the first tiles of a block. Tiles may be half or not at all written: their scores are then garbage in their own lanes only.</summary>
    /// <param name="queries">Rows of queries.</param>
    /// <param name="queryStride">Floats from one to the next.</param>
    /// <param name="queryCount">Rows.</param>
    /// <param name="keys">First tile.</param>
    /// <param name="headDim">Channels.</param>
    /// <param name="positionCount">Positions that are wanted.</param>
    /// <param name="queryScales">One a row; read for packed queries only.</param>
    /// <param name="scores">Rows of 128.</param>
    /// <param name="next">Bytes that are read after these, as many, or null: they are asked for from memory meanwhile.</param>
    public static void Scores(float* queries, int queryStride, int queryCount, byte* keys, int headDim, int positionCount, float* queryScales, float* scores, byte* next = null)
    {
        var tiles = (positionCount + Lanes - 1) / Lanes;
        nint tileBytes = (nint)headDim * Lanes * TCache.Bytes;
        // Asking for what is being read anyway costs next to nothing.
        var ahead = next == null ? 0 : (nint)(next - keys);
        for (int q = 0, together; q < queryCount; q += together)
        {
            together = QueriesTogether(queryCount - q);
            var query = queries + q * queryStride;
            var scale = queryScales + q;
            var s = scores + q * ScoreStride;
            // Every load of a key serves four or five queries, every load of a query four tiles; where registers are few, one.
            var step = together == 1 || TLanes.HasManyRegisters ? 4 : 1;
            for (var tile = 0; tile < tiles; tile += step, s += step * Lanes)
            {
                var key = keys + tile * tileBytes;
                if (together == 1) Scores1x4(query, key, tileBytes, headDim, scale, s, ahead);
                else if (together == 5 && TLanes.HasManyRegisters) Scores5x4(query, queryStride, key, tileBytes, headDim, scale, s, ahead);
                else if (together == 5) Scores5x1(query, queryStride, key, headDim, scale, s, ahead);
                else if (TLanes.HasManyRegisters) Scores4x4(query, queryStride, key, tileBytes, headDim, scale, s, ahead);
                else Scores4x1(query, queryStride, key, headDim, scale, s, ahead);
            }
            // Once is enough.
            ahead = 0;
        }
    }

    /// <summary>
    /// Adds the values of positions [begin, end), weighted, to one accumulator a query. A row is read in whole lanes: what lies past its end stays in lanes that nobody stores,
    /// and the last row of a block is followed by at least 15 elements of summaries and padding.
    /// </summary>
    /// <param name="weights">Rows of 128.</param>
    /// <param name="weightScales">One a row; read for packed weights only.</param>
    /// <param name="queryCount">Rows.</param>
    /// <param name="values">First value row.</param>
    /// <param name="headDim">Channels.</param>
    /// <param name="begin">First position.</param>
    /// <param name="end">Position after the last.</param>
    /// <param name="accumulators">Rows.</param>
    /// <param name="stride">Floats from one accumulator to the next.</param>
    /// <param name="next">As for scores.</param>
    public static void Values(float* weights, float* weightScales, int queryCount, byte* values, int headDim, int begin, int end, float* accumulators, int stride, byte* next = null)
    {
        if (next == null) next = values;
        var groups = stride / Lanes;
        for (int q = 0, together; q < queryCount; q += together)
        {
            together = QueriesTogether(queryCount - q);
            var w = weights + q * ScoreStride;
            var scale = weightScales + q;
            var acc = accumulators + q * stride;
            for (int g = 0, step; g < groups; g += step)
            {
                var v = values + (nint)g * Lanes * TCache.Bytes;
                step = groups - g >= 4 && (together == 1 || TLanes.HasManyRegisters) ? 4 : 1;
                if (together == 1 && step == 4) Values1x4(w, scale, v, headDim, begin, end, acc + g * Lanes, ref next);
                else if (together == 1) Values1x1(w, scale, v, headDim, begin, end, acc + g * Lanes, ref next);
                else if (together == 5 && step == 4) Values5x4(w, scale, v, headDim, begin, end, acc + g * Lanes, stride, ref next);
                else if (together == 5) Values5x1(w, scale, v, headDim, begin, end, acc + g * Lanes, stride, ref next);
                else if (step == 4) Values4x4(w, scale, v, headDim, begin, end, acc + g * Lanes, stride, ref next);
                else Values4x1(w, scale, v, headDim, begin, end, acc + g * Lanes, stride, ref next);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(byte* address)
    {
        // Into the second level: a half of a block fills the first one, which is being read.
        if (Sse.IsSupported) Sse.Prefetch1(address);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(TLanes a, TLanes b, TLanes c, TLanes d, float* scale, float* scores)
    {
        TLanes.Store(TCache.ToSingle(a, scale), scores);
        TLanes.Store(TCache.ToSingle(b, scale), scores + Lanes);
        TLanes.Store(TCache.ToSingle(c, scale), scores + 2 * Lanes);
        TLanes.Store(TCache.ToSingle(d, scale), scores + 3 * Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void End(TLanes a, TLanes b, TLanes c, TLanes d, float* scale, float* accumulator)
    {
        TCache.End(a, scale, accumulator);
        TCache.End(b, scale, accumulator + Lanes);
        TCache.End(c, scale, accumulator + 2 * Lanes);
        TCache.End(d, scale, accumulator + 3 * Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4x4(float* q, int queryStride, byte* tile, nint tileBytes, int headDim, float* scales, float* scores, nint ahead)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride;
        TLanes s00 = TLanes.Zero, s01 = s00, s02 = s00, s03 = s00;
        TLanes s10 = TLanes.Zero, s11 = s10, s12 = s10, s13 = s10;
        TLanes s20 = TLanes.Zero, s21 = s20, s22 = s20, s23 = s20;
        TLanes s30 = TLanes.Zero, s31 = s30, s32 = s30, s33 = s30;
        for (var c = 0; c < headDim / TCache.Together; c++, tile += StepBytes)
        {
            Prefetch(tile + ahead);
            Prefetch(tile + ahead + tileBytes);
            Prefetch(tile + ahead + 2 * tileBytes);
            Prefetch(tile + ahead + 3 * tileBytes);
            TLanes k0 = TCache.Load<TLanes>(tile, Lanes), k1 = TCache.Load<TLanes>(tile + tileBytes, Lanes), k2 = TCache.Load<TLanes>(tile + 2 * tileBytes, Lanes), k3 = TCache.Load<TLanes>(tile + 3 * tileBytes, Lanes);
            var b = TLanes.Broadcast(q[c]);
            s00 = TCache.MultiplyAdd(b, k0, s00);
            s01 = TCache.MultiplyAdd(b, k1, s01);
            s02 = TCache.MultiplyAdd(b, k2, s02);
            s03 = TCache.MultiplyAdd(b, k3, s03);
            b = TLanes.Broadcast(q1[c]);
            s10 = TCache.MultiplyAdd(b, k0, s10);
            s11 = TCache.MultiplyAdd(b, k1, s11);
            s12 = TCache.MultiplyAdd(b, k2, s12);
            s13 = TCache.MultiplyAdd(b, k3, s13);
            b = TLanes.Broadcast(q2[c]);
            s20 = TCache.MultiplyAdd(b, k0, s20);
            s21 = TCache.MultiplyAdd(b, k1, s21);
            s22 = TCache.MultiplyAdd(b, k2, s22);
            s23 = TCache.MultiplyAdd(b, k3, s23);
            b = TLanes.Broadcast(q3[c]);
            s30 = TCache.MultiplyAdd(b, k0, s30);
            s31 = TCache.MultiplyAdd(b, k1, s31);
            s32 = TCache.MultiplyAdd(b, k2, s32);
            s33 = TCache.MultiplyAdd(b, k3, s33);
        }
        Store(s00, s01, s02, s03, scales, scores);
        Store(s10, s11, s12, s13, scales + 1, scores + ScoreStride);
        Store(s20, s21, s22, s23, scales + 2, scores + 2 * ScoreStride);
        Store(s30, s31, s32, s33, scales + 3, scores + 3 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4x1(float* q, int queryStride, byte* tile, int headDim, float* scales, float* scores, nint ahead)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride;
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0;
        for (var c = 0; c < headDim / TCache.Together; c++, tile += StepBytes)
        {
            Prefetch(tile + ahead);
            var k = TCache.Load<TLanes>(tile, Lanes);
            s0 = TCache.MultiplyAdd(TLanes.Broadcast(q[c]), k, s0);
            s1 = TCache.MultiplyAdd(TLanes.Broadcast(q1[c]), k, s1);
            s2 = TCache.MultiplyAdd(TLanes.Broadcast(q2[c]), k, s2);
            s3 = TCache.MultiplyAdd(TLanes.Broadcast(q3[c]), k, s3);
        }
        TLanes.Store(TCache.ToSingle(s0, scales), scores);
        TLanes.Store(TCache.ToSingle(s1, scales + 1), scores + ScoreStride);
        TLanes.Store(TCache.ToSingle(s2, scales + 2), scores + 2 * ScoreStride);
        TLanes.Store(TCache.ToSingle(s3, scales + 3), scores + 3 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores5x4(float* q, int queryStride, byte* tile, nint tileBytes, int headDim, float* scales, float* scores, nint ahead)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride, q4 = q3 + queryStride;
        TLanes s00 = TLanes.Zero, s01 = s00, s02 = s00, s03 = s00;
        TLanes s10 = TLanes.Zero, s11 = s10, s12 = s10, s13 = s10;
        TLanes s20 = TLanes.Zero, s21 = s20, s22 = s20, s23 = s20;
        TLanes s30 = TLanes.Zero, s31 = s30, s32 = s30, s33 = s30;
        TLanes s40 = TLanes.Zero, s41 = s40, s42 = s40, s43 = s40;
        for (var c = 0; c < headDim / TCache.Together; c++, tile += StepBytes)
        {
            Prefetch(tile + ahead);
            Prefetch(tile + ahead + tileBytes);
            Prefetch(tile + ahead + 2 * tileBytes);
            Prefetch(tile + ahead + 3 * tileBytes);
            TLanes k0 = TCache.Load<TLanes>(tile, Lanes), k1 = TCache.Load<TLanes>(tile + tileBytes, Lanes), k2 = TCache.Load<TLanes>(tile + 2 * tileBytes, Lanes), k3 = TCache.Load<TLanes>(tile + 3 * tileBytes, Lanes);
            var b = TLanes.Broadcast(q[c]);
            s00 = TCache.MultiplyAdd(b, k0, s00);
            s01 = TCache.MultiplyAdd(b, k1, s01);
            s02 = TCache.MultiplyAdd(b, k2, s02);
            s03 = TCache.MultiplyAdd(b, k3, s03);
            b = TLanes.Broadcast(q1[c]);
            s10 = TCache.MultiplyAdd(b, k0, s10);
            s11 = TCache.MultiplyAdd(b, k1, s11);
            s12 = TCache.MultiplyAdd(b, k2, s12);
            s13 = TCache.MultiplyAdd(b, k3, s13);
            b = TLanes.Broadcast(q2[c]);
            s20 = TCache.MultiplyAdd(b, k0, s20);
            s21 = TCache.MultiplyAdd(b, k1, s21);
            s22 = TCache.MultiplyAdd(b, k2, s22);
            s23 = TCache.MultiplyAdd(b, k3, s23);
            b = TLanes.Broadcast(q3[c]);
            s30 = TCache.MultiplyAdd(b, k0, s30);
            s31 = TCache.MultiplyAdd(b, k1, s31);
            s32 = TCache.MultiplyAdd(b, k2, s32);
            s33 = TCache.MultiplyAdd(b, k3, s33);
            b = TLanes.Broadcast(q4[c]);
            s40 = TCache.MultiplyAdd(b, k0, s40);
            s41 = TCache.MultiplyAdd(b, k1, s41);
            s42 = TCache.MultiplyAdd(b, k2, s42);
            s43 = TCache.MultiplyAdd(b, k3, s43);
        }
        Store(s00, s01, s02, s03, scales, scores);
        Store(s10, s11, s12, s13, scales + 1, scores + ScoreStride);
        Store(s20, s21, s22, s23, scales + 2, scores + 2 * ScoreStride);
        Store(s30, s31, s32, s33, scales + 3, scores + 3 * ScoreStride);
        Store(s40, s41, s42, s43, scales + 4, scores + 4 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores5x1(float* q, int queryStride, byte* tile, int headDim, float* scales, float* scores, nint ahead)
    {
        float* q1 = q + queryStride, q2 = q1 + queryStride, q3 = q2 + queryStride, q4 = q3 + queryStride;
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0, s4 = s0;
        for (var c = 0; c < headDim / TCache.Together; c++, tile += StepBytes)
        {
            Prefetch(tile + ahead);
            var k = TCache.Load<TLanes>(tile, Lanes);
            s0 = TCache.MultiplyAdd(TLanes.Broadcast(q[c]), k, s0);
            s1 = TCache.MultiplyAdd(TLanes.Broadcast(q1[c]), k, s1);
            s2 = TCache.MultiplyAdd(TLanes.Broadcast(q2[c]), k, s2);
            s3 = TCache.MultiplyAdd(TLanes.Broadcast(q3[c]), k, s3);
            s4 = TCache.MultiplyAdd(TLanes.Broadcast(q4[c]), k, s4);
        }
        TLanes.Store(TCache.ToSingle(s0, scales), scores);
        TLanes.Store(TCache.ToSingle(s1, scales + 1), scores + ScoreStride);
        TLanes.Store(TCache.ToSingle(s2, scales + 2), scores + 2 * ScoreStride);
        TLanes.Store(TCache.ToSingle(s3, scales + 3), scores + 3 * ScoreStride);
        TLanes.Store(TCache.ToSingle(s4, scales + 4), scores + 4 * ScoreStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores1x4(float* q, byte* tile, nint tileBytes, int headDim, float* scales, float* scores, nint ahead)
    {
        TLanes s0 = TLanes.Zero, s1 = s0, s2 = s0, s3 = s0;
        for (var c = 0; c < headDim / TCache.Together; c++, tile += StepBytes)
        {
            Prefetch(tile + ahead);
            Prefetch(tile + ahead + tileBytes);
            Prefetch(tile + ahead + 2 * tileBytes);
            Prefetch(tile + ahead + 3 * tileBytes);
            var b = TLanes.Broadcast(q[c]);
            s0 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(tile, Lanes), s0);
            s1 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(tile + tileBytes, Lanes), s1);
            s2 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(tile + 2 * tileBytes, Lanes), s2);
            s3 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(tile + 3 * tileBytes, Lanes), s3);
        }
        Store(s0, s1, s2, s3, scales, scores);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values4x4(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, int stride, ref byte* next)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride;
        TLanes a00 = TCache.Begin<TLanes>(acc), a01 = TCache.Begin<TLanes>(acc + Lanes), a02 = TCache.Begin<TLanes>(acc + 2 * Lanes), a03 = TCache.Begin<TLanes>(acc + 3 * Lanes);
        TLanes a10 = TCache.Begin<TLanes>(acc1), a11 = TCache.Begin<TLanes>(acc1 + Lanes), a12 = TCache.Begin<TLanes>(acc1 + 2 * Lanes), a13 = TCache.Begin<TLanes>(acc1 + 3 * Lanes);
        TLanes a20 = TCache.Begin<TLanes>(acc2), a21 = TCache.Begin<TLanes>(acc2 + Lanes), a22 = TCache.Begin<TLanes>(acc2 + 2 * Lanes), a23 = TCache.Begin<TLanes>(acc2 + 3 * Lanes);
        TLanes a30 = TCache.Begin<TLanes>(acc3), a31 = TCache.Begin<TLanes>(acc3 + Lanes), a32 = TCache.Begin<TLanes>(acc3 + 2 * Lanes), a33 = TCache.Begin<TLanes>(acc3 + 3 * Lanes);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += 4 * StepBytes)
        {
            Prefetch(ahead);
            Prefetch(ahead + 2 * StepBytes);
            TLanes v0 = TCache.Load<TLanes>(row, rowBytes), v1 = TCache.Load<TLanes>(row + Lanes * TCache.Bytes, rowBytes);
            TLanes v2 = TCache.Load<TLanes>(row + 2 * Lanes * TCache.Bytes, rowBytes), v3 = TCache.Load<TLanes>(row + 3 * Lanes * TCache.Bytes, rowBytes);
            var b = TLanes.Broadcast(w[j]);
            a00 = TCache.MultiplyAdd(b, v0, a00);
            a01 = TCache.MultiplyAdd(b, v1, a01);
            a02 = TCache.MultiplyAdd(b, v2, a02);
            a03 = TCache.MultiplyAdd(b, v3, a03);
            b = TLanes.Broadcast(w1[j]);
            a10 = TCache.MultiplyAdd(b, v0, a10);
            a11 = TCache.MultiplyAdd(b, v1, a11);
            a12 = TCache.MultiplyAdd(b, v2, a12);
            a13 = TCache.MultiplyAdd(b, v3, a13);
            b = TLanes.Broadcast(w2[j]);
            a20 = TCache.MultiplyAdd(b, v0, a20);
            a21 = TCache.MultiplyAdd(b, v1, a21);
            a22 = TCache.MultiplyAdd(b, v2, a22);
            a23 = TCache.MultiplyAdd(b, v3, a23);
            b = TLanes.Broadcast(w3[j]);
            a30 = TCache.MultiplyAdd(b, v0, a30);
            a31 = TCache.MultiplyAdd(b, v1, a31);
            a32 = TCache.MultiplyAdd(b, v2, a32);
            a33 = TCache.MultiplyAdd(b, v3, a33);
        }
        next = ahead;
        End(a00, a01, a02, a03, scales, acc);
        End(a10, a11, a12, a13, scales + 1, acc1);
        End(a20, a21, a22, a23, scales + 2, acc2);
        End(a30, a31, a32, a33, scales + 3, acc3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values4x1(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, int stride, ref byte* next)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride;
        TLanes a0 = TCache.Begin<TLanes>(acc), a1 = TCache.Begin<TLanes>(acc1), a2 = TCache.Begin<TLanes>(acc2), a3 = TCache.Begin<TLanes>(acc3);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += StepBytes)
        {
            Prefetch(ahead);
            var v = TCache.Load<TLanes>(row, rowBytes);
            a0 = TCache.MultiplyAdd(TLanes.Broadcast(w[j]), v, a0);
            a1 = TCache.MultiplyAdd(TLanes.Broadcast(w1[j]), v, a1);
            a2 = TCache.MultiplyAdd(TLanes.Broadcast(w2[j]), v, a2);
            a3 = TCache.MultiplyAdd(TLanes.Broadcast(w3[j]), v, a3);
        }
        next = ahead;
        TCache.End(a0, scales, acc);
        TCache.End(a1, scales + 1, acc1);
        TCache.End(a2, scales + 2, acc2);
        TCache.End(a3, scales + 3, acc3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values5x4(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, int stride, ref byte* next)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride, w4 = w3 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride, acc4 = acc3 + stride;
        TLanes a00 = TCache.Begin<TLanes>(acc), a01 = TCache.Begin<TLanes>(acc + Lanes), a02 = TCache.Begin<TLanes>(acc + 2 * Lanes), a03 = TCache.Begin<TLanes>(acc + 3 * Lanes);
        TLanes a10 = TCache.Begin<TLanes>(acc1), a11 = TCache.Begin<TLanes>(acc1 + Lanes), a12 = TCache.Begin<TLanes>(acc1 + 2 * Lanes), a13 = TCache.Begin<TLanes>(acc1 + 3 * Lanes);
        TLanes a20 = TCache.Begin<TLanes>(acc2), a21 = TCache.Begin<TLanes>(acc2 + Lanes), a22 = TCache.Begin<TLanes>(acc2 + 2 * Lanes), a23 = TCache.Begin<TLanes>(acc2 + 3 * Lanes);
        TLanes a30 = TCache.Begin<TLanes>(acc3), a31 = TCache.Begin<TLanes>(acc3 + Lanes), a32 = TCache.Begin<TLanes>(acc3 + 2 * Lanes), a33 = TCache.Begin<TLanes>(acc3 + 3 * Lanes);
        TLanes a40 = TCache.Begin<TLanes>(acc4), a41 = TCache.Begin<TLanes>(acc4 + Lanes), a42 = TCache.Begin<TLanes>(acc4 + 2 * Lanes), a43 = TCache.Begin<TLanes>(acc4 + 3 * Lanes);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += 4 * StepBytes)
        {
            Prefetch(ahead);
            Prefetch(ahead + 2 * StepBytes);
            TLanes v0 = TCache.Load<TLanes>(row, rowBytes), v1 = TCache.Load<TLanes>(row + Lanes * TCache.Bytes, rowBytes);
            TLanes v2 = TCache.Load<TLanes>(row + 2 * Lanes * TCache.Bytes, rowBytes), v3 = TCache.Load<TLanes>(row + 3 * Lanes * TCache.Bytes, rowBytes);
            var b = TLanes.Broadcast(w[j]);
            a00 = TCache.MultiplyAdd(b, v0, a00);
            a01 = TCache.MultiplyAdd(b, v1, a01);
            a02 = TCache.MultiplyAdd(b, v2, a02);
            a03 = TCache.MultiplyAdd(b, v3, a03);
            b = TLanes.Broadcast(w1[j]);
            a10 = TCache.MultiplyAdd(b, v0, a10);
            a11 = TCache.MultiplyAdd(b, v1, a11);
            a12 = TCache.MultiplyAdd(b, v2, a12);
            a13 = TCache.MultiplyAdd(b, v3, a13);
            b = TLanes.Broadcast(w2[j]);
            a20 = TCache.MultiplyAdd(b, v0, a20);
            a21 = TCache.MultiplyAdd(b, v1, a21);
            a22 = TCache.MultiplyAdd(b, v2, a22);
            a23 = TCache.MultiplyAdd(b, v3, a23);
            b = TLanes.Broadcast(w3[j]);
            a30 = TCache.MultiplyAdd(b, v0, a30);
            a31 = TCache.MultiplyAdd(b, v1, a31);
            a32 = TCache.MultiplyAdd(b, v2, a32);
            a33 = TCache.MultiplyAdd(b, v3, a33);
            b = TLanes.Broadcast(w4[j]);
            a40 = TCache.MultiplyAdd(b, v0, a40);
            a41 = TCache.MultiplyAdd(b, v1, a41);
            a42 = TCache.MultiplyAdd(b, v2, a42);
            a43 = TCache.MultiplyAdd(b, v3, a43);
        }
        next = ahead;
        End(a00, a01, a02, a03, scales, acc);
        End(a10, a11, a12, a13, scales + 1, acc1);
        End(a20, a21, a22, a23, scales + 2, acc2);
        End(a30, a31, a32, a33, scales + 3, acc3);
        End(a40, a41, a42, a43, scales + 4, acc4);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values5x1(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, int stride, ref byte* next)
    {
        float* w1 = w + ScoreStride, w2 = w1 + ScoreStride, w3 = w2 + ScoreStride, w4 = w3 + ScoreStride;
        float* acc1 = acc + stride, acc2 = acc1 + stride, acc3 = acc2 + stride, acc4 = acc3 + stride;
        TLanes a0 = TCache.Begin<TLanes>(acc), a1 = TCache.Begin<TLanes>(acc1), a2 = TCache.Begin<TLanes>(acc2);
        TLanes a3 = TCache.Begin<TLanes>(acc3), a4 = TCache.Begin<TLanes>(acc4);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += StepBytes)
        {
            Prefetch(ahead);
            var v = TCache.Load<TLanes>(row, rowBytes);
            a0 = TCache.MultiplyAdd(TLanes.Broadcast(w[j]), v, a0);
            a1 = TCache.MultiplyAdd(TLanes.Broadcast(w1[j]), v, a1);
            a2 = TCache.MultiplyAdd(TLanes.Broadcast(w2[j]), v, a2);
            a3 = TCache.MultiplyAdd(TLanes.Broadcast(w3[j]), v, a3);
            a4 = TCache.MultiplyAdd(TLanes.Broadcast(w4[j]), v, a4);
        }
        next = ahead;
        TCache.End(a0, scales, acc);
        TCache.End(a1, scales + 1, acc1);
        TCache.End(a2, scales + 2, acc2);
        TCache.End(a3, scales + 3, acc3);
        TCache.End(a4, scales + 4, acc4);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values1x4(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, ref byte* next)
    {
        TLanes a0 = TCache.Begin<TLanes>(acc), a1 = TCache.Begin<TLanes>(acc + Lanes), a2 = TCache.Begin<TLanes>(acc + 2 * Lanes), a3 = TCache.Begin<TLanes>(acc + 3 * Lanes);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += 4 * StepBytes)
        {
            Prefetch(ahead);
            Prefetch(ahead + 2 * StepBytes);
            var b = TLanes.Broadcast(w[j]);
            a0 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(row, rowBytes), a0);
            a1 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(row + Lanes * TCache.Bytes, rowBytes), a1);
            a2 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(row + 2 * Lanes * TCache.Bytes, rowBytes), a2);
            a3 = TCache.MultiplyAdd(b, TCache.Load<TLanes>(row + 3 * Lanes * TCache.Bytes, rowBytes), a3);
        }
        next = ahead;
        TCache.End(a0, scales, acc);
        TCache.End(a1, scales, acc + Lanes);
        TCache.End(a2, scales, acc + 2 * Lanes);
        TCache.End(a3, scales, acc + 3 * Lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Values1x1(float* w, float* scales, byte* values, int headDim, int begin, int end, float* acc, ref byte* next)
    {
        var a = TCache.Begin<TLanes>(acc);
        var ahead = next;
        nint rowBytes = (nint)headDim * TCache.Bytes;
        var row = values + begin * rowBytes;
        for (var j = begin / TCache.Together; j * TCache.Together < end; j++, row += TCache.Together * rowBytes, ahead += StepBytes)
        {
            Prefetch(ahead);
            a = TCache.MultiplyAdd(TLanes.Broadcast(w[j]), TCache.Load<TLanes>(row, rowBytes), a);
        }
        next = ahead;
        TCache.End(a, scales, acc);
    }
}
