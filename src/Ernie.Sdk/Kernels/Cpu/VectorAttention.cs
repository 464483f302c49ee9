namespace Ernie.Sdk.Kernels;

//  Attention, dense
//      qkv   [tokens, heads + 2 · kvHeads, headDim]                float    q, k, v, not rotated
//      pool  [blocks, KvBlockLayout]                               float or bfloat16
//      out   [tokens, heads of kv heads begin .. end-1, headDim]   float
//  Math       rotation and append, then softmax(q·kᵀ / √headDim) · v over positions 0 .. p. Per (token, head): the cache is cut into splits of eight blocks; inside a split
//             blocks are added in order to a running (maximum, sum, accumulator), splits are merged in order. Nothing depends on other tokens, tiles or threads.
//  Source     online softmax (Milakov & Gimelshein 2018), split over the cache as in flash decoding; AttentionTiles has the inner loops
//  Reference  Kernels/Reference/ReferenceAttention.cs
//  Tolerance  2e-5 + 2e-5 · |y| with a float cache; 2e-3 with bfloat16, where a key may round to its other neighbour; equal bits for any tokens, threads, instruction set
internal static unsafe class VectorAttention<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int BlockSize = KvBlockLayout.BlockSize;

    public static void Run(in AttentionArguments arguments, in KernelContext context)
    {
        AttentionSteps.Prepare(arguments);
        if (arguments.Layout.ElementType == KvElementType.BFloat16) Run<BFloat16Element>(arguments, context);
        else if (arguments.Layout.ElementType == KvElementType.Float32) Run<Float32Element>(arguments, context);
        else throw new NotSupportedException($"The vector kernels do not read a cache of {arguments.Layout.ElementType}.");
    }

    private static void Run<TCache>(AttentionArguments a, in KernelContext context) where TCache : unmanaged, IElement
    {
        var plan = new AttentionPlan(a, context, Lanes);
        ClearDead(a, plan);
        // Every key and value of the step is stored before any query reads: tokens of a prefill see those before them in the same step.
        context.Parallel.For(plan.TileCount, i => Append<TCache>(a, plan.Tiles[i]));
        if (!plan.SplitsAreItems)
        {
            context.Parallel.For(plan.TileCount, i => Attend<TCache>(a, plan, plan.Tiles[i]));
            return;
        }
        context.Parallel.For(plan.PartialCount, i =>
        {
            var tile = plan.Tiles[plan.PartialTiles[i]];
            AttendSplit<TCache>(a, plan, tile, i - tile.FirstPartial, plan.Partial(i));
        });
        for (var i = 0; i < plan.TileCount; i++) Merge(a, plan, plan.Tiles[i]);
    }

    private static void ClearDead(in AttentionArguments a, in AttentionPlan plan)
    {
        nint row = (nint)(a.KvHeadEnd - a.KvHeadBegin) * plan.Group * a.HeadDim;
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (((SequenceFlags)a.Flags[s] & SequenceFlags.Dead) == 0) continue;
            for (var t = a.SequenceStarts[s]; t < a.SequenceStarts[s + 1]; t++) new Span<float>(a.Output + t * row, (int)row).Clear();
        }
    }

    private static void Append<TCache>(in AttentionArguments a, in AttentionTile tile) where TCache : unmanaged, IElement
    {
        var rotated = stackalloc float[a.HeadDim];
        for (var t = tile.FirstToken; t < tile.FirstToken + tile.TokenCount; t++)
        {
            var slot = a.Positions[t] % BlockSize;
            var block = Block(a, tile.Sequence, a.Positions[t] / BlockSize);
            Rotate(a, t, a.HeadCount + tile.KvHead, 1, rotated);
            var key = block + a.Layout.Key(tile.KvHead, slot, 0);
            var value = block + a.Layout.Value(tile.KvHead, slot);
            var source = Row(a, t, a.HeadCount + a.KvHeadCount + tile.KvHead);
            for (var c = 0; c < a.HeadDim; c++)
            {
                TCache.Store(key + c * a.Layout.KeyChannelStride, rotated[c]);
                TCache.Store(value + (nint)c * TCache.Bytes, source[c]);
            }
        }
    }

    /// <summary>All splits of a tile, merged one after another.</summary>
    private static void Attend<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile) where TCache : unmanaged, IElement
    {
        var queryCount = tile.TokenCount * plan.Group;
        var size = queryCount * (plan.Stride + 2);
        var partial = stackalloc float[size];
        var total = stackalloc float[size];
        var queries = stackalloc float[queryCount * a.HeadDim];
        Queries(a, plan, tile, queries);
        for (var split = 0; split < tile.SplitCount; split++)
        {
            AttendSplit<TCache>(a, plan, tile, split, queries, split == 0 ? total : partial);
            if (split > 0) Merge(a, plan, tile, split, partial, total);
        }
        Output(a, plan, tile, total);
    }

    /// <summary>Merges the partial results of a tile's splits in order.</summary>
    private static void Merge(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile)
    {
        var total = plan.Partial(tile.FirstPartial);
        for (var split = 1; split < tile.SplitCount; split++) Merge(a, plan, tile, split, plan.Partial(tile.FirstPartial + split), total);
        Output(a, plan, tile, total);
    }

    private static void AttendSplit<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, int split, float* result) where TCache : unmanaged, IElement
    {
        var queries = stackalloc float[tile.TokenCount * plan.Group * a.HeadDim];
        Queries(a, plan, tile, queries);
        AttendSplit<TCache>(a, plan, tile, split, queries, result);
    }

    /// <summary>One split from nothing: accumulators, maxima and sums of all queries of the tile into <paramref name="result"/>.</summary>
    private static void AttendSplit<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, int split, float* queries, float* result)
        where TCache : unmanaged, IElement
    {
        var queryCount = tile.TokenCount * plan.Group;
        var stride = plan.Stride;
        var maxima = result + queryCount * stride;
        var sums = maxima + queryCount;
        new Span<float>(result, queryCount * (stride + 2)).Clear();
        new Span<float>(maxima, queryCount).Fill(float.NegativeInfinity);

        // [queries, 128] scores, then weights
        var scores = stackalloc float[queryCount * BlockSize];
        var last = a.Positions[tile.FirstToken + tile.TokenCount - 1];
        var end = Math.Min(last / BlockSize + 1, (split + 1) * (AttentionPlan.SplitSize / BlockSize));
        for (var j = split * (AttentionPlan.SplitSize / BlockSize); j < end; j++)
        {
            var block = Block(a, tile.Sequence, j);
            // Tokens whose positions end before the block come first.
            var skipped = Math.Clamp(j * BlockSize - a.Positions[tile.FirstToken], 0, tile.TokenCount) * plan.Group;
            var present = Valid(a, tile, tile.TokenCount - 1, j);
            AttentionTiles<TLanes, TCache>.Scores(
                queries + skipped * a.HeadDim, a.HeadDim, queryCount - skipped, block + a.Layout.KeyTile(tile.KvHead, 0), a.HeadDim, present, scores + skipped * BlockSize);
            for (var q = skipped; q < queryCount; q++)
                Soften(scores + q * BlockSize, Valid(a, tile, q / plan.Group, j), result + q * stride, stride, ref maxima[q], ref sums[q]);

            var values = block + a.Layout.Value(tile.KvHead, 0);
            for (var q = skipped; q < queryCount; q += 4)
            {
                var count = Math.Min(4, queryCount - q);
                // What all four see is added together; the rest of each by itself, so that no query touches a value after its own position.
                var common = count == 4 ? Valid(a, tile, q / plan.Group, j) : 0;
                if (common > 0) AttentionTiles<TLanes, TCache>.Values(scores + q * BlockSize, 4, values, a.HeadDim, 0, common, result + q * stride, stride);
                for (var i = q; i < q + count; i++)
                {
                    var valid = Valid(a, tile, i / plan.Group, j);
                    if (valid > common) AttentionTiles<TLanes, TCache>.Values(scores + i * BlockSize, 1, values, a.HeadDim, common, valid, result + i * stride, stride);
                }
            }
        }
    }

    /// <summary>Positions of block <paramref name="block"/> that a token of the tile sees.</summary>
    private static int Valid(in AttentionArguments a, in AttentionTile tile, int token, int block) =>
        Math.Clamp(a.Positions[tile.FirstToken + token] + 1 - block * BlockSize, 0, BlockSize);

    /// <summary>
    /// Online softmax: turns the first <paramref name="valid"/> scores into weights e^(s - m), m the new maximum, and rescales what was added under the old one.
    /// Scores after them are neither read as numbers nor used.
    /// </summary>
    private static void Soften(float* scores, int valid, float* accumulator, int stride, ref float maximum, ref float sum)
    {
        var largest = TLanes.Broadcast(maximum);
        var i = 0;
        for (; i + Lanes <= valid; i += Lanes)
        {
            var s = TLanes.Load(scores + i);
            largest = TLanes.SelectLess(largest, s, s, largest);
        }
        var tail = i;
        if (tail < valid)
        {
            // The lanes past the query's position become -∞ here, and weights of zero below.
            var s = LaneMath<TLanes>.LoadFirst(scores + tail, valid - tail, float.NegativeInfinity);
            TLanes.Store(s, scores + tail);
            largest = TLanes.SelectLess(largest, s, s, largest);
        }
        var max = LaneMath<TLanes>.Max(largest);

        var shift = TLanes.Broadcast(max);
        var weights = TLanes.Zero;
        for (i = 0; i < valid; i += Lanes)
        {
            var e = LaneMath<TLanes>.Exp(TLanes.Subtract(TLanes.Load(scores + i), shift));
            TLanes.Store(e, scores + i);
            weights = TLanes.Add(weights, e);
        }
        // e^0 is exactly 1: without a new maximum nothing changes.
        if (maximum < max)
        {
            var factor = LaneMath<TLanes>.Exp(maximum - max);
            sum *= factor;
            Scale(accumulator, stride, factor);
            maximum = max;
        }
        sum += LaneMath<TLanes>.Sum(weights);
    }

    /// <summary>total ← total merged with the partial result of a later split, for the queries that reach it.</summary>
    private static void Merge(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, int split, float* partial, float* total)
    {
        var queryCount = tile.TokenCount * plan.Group;
        nint maxima = queryCount * plan.Stride, sums = maxima + queryCount;
        for (var q = 0; q < queryCount; q++)
        {
            if (a.Positions[tile.FirstToken + q / plan.Group] < split * AttentionPlan.SplitSize) continue;
            float oldMax = total[maxima + q], newMax = partial[maxima + q];
            var max = oldMax < newMax ? newMax : oldMax;
            float oldFactor = LaneMath<TLanes>.Exp(oldMax - max), newFactor = LaneMath<TLanes>.Exp(newMax - max);
            total[maxima + q] = max;
            total[sums + q] = total[sums + q] * oldFactor + partial[sums + q] * newFactor;
            TLanes x = TLanes.Broadcast(oldFactor), y = TLanes.Broadcast(newFactor);
            for (var d = q * plan.Stride; d < (q + 1) * plan.Stride; d += Lanes)
                TLanes.Store(TLanes.MultiplyAdd(TLanes.Load(partial + d), y, TLanes.Multiply(TLanes.Load(total + d), x)), total + d);
        }
    }

    private static void Output(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, float* total)
    {
        var queryCount = tile.TokenCount * plan.Group;
        var sums = total + queryCount * plan.Stride + queryCount;
        var heads = (a.KvHeadEnd - a.KvHeadBegin) * plan.Group;
        for (var q = 0; q < queryCount; q++)
        {
            var head = (tile.KvHead - a.KvHeadBegin) * plan.Group + q % plan.Group;
            var output = a.Output + ((nint)(tile.FirstToken + q / plan.Group) * heads + head) * a.HeadDim;
            var accumulator = total + q * plan.Stride;
            for (var d = 0; d < a.HeadDim; d++) output[d] = accumulator[d] / sums[q];
        }
    }

    private static void Scale(float* accumulator, int count, float factor)
    {
        var lanes = TLanes.Broadcast(factor);
        for (var d = 0; d < count; d += Lanes) TLanes.Store(TLanes.Multiply(TLanes.Load(accumulator + d), lanes), accumulator + d);
    }

    /// <summary>[tokens · group, headDim] rotated queries, with the scale of the scores inside.</summary>
    private static void Queries(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, float* queries)
    {
        var scale = (float)(1 / Math.Sqrt(a.HeadDim));
        for (var q = 0; q < tile.TokenCount * plan.Group; q++)
            Rotate(a, tile.FirstToken + q / plan.Group, tile.KvHead * plan.Group + q % plan.Group, scale, queries + (nint)q * a.HeadDim);
    }

    private static void Rotate(in AttentionArguments a, int token, int row, float scale, float* y)
    {
        var x = Row(a, token, row);
        var angles = a.Rope.Row(a.Positions[token]);
        for (var i = 0; i < a.HeadDim; i += 2)
        {
            float cos = angles[i], sin = angles[i + 1];
            y[i] = (x[i] * cos - x[i + 1] * sin) * scale;
            y[i + 1] = (x[i] * sin + x[i + 1] * cos) * scale;
        }
    }

    private static float* Row(in AttentionArguments a, int token, int row) =>
        a.Qkv + ((nint)token * (a.HeadCount + 2 * a.KvHeadCount) + row) * a.HeadDim;

    private static byte* Block(in AttentionArguments a, int sequence, int block) =>
        a.Pool + a.BlockTables[(nint)sequence * a.BlockTableStride + block] * a.Layout.BlockBytes;
}
