namespace Ernie.Sdk.Kernels;

//  Attention, over all blocks of the cache or over selected ones (PLAS)
//      qkv   [tokens, heads + 2 · kvHeads, headDim]                float    q, k, v, not rotated
//      pool  [blocks, KvBlockLayout]                               float, bfloat16 or int8
//      out   [tokens, heads of kv heads begin .. end-1, headDim]   float
//  Math       rotation and append, then softmax(q·kᵀ / √headDim) · v over positions 0 .. p of kept blocks. Per (token, head): the kept blocks are cut into splits of eight; inside a
//             split they are added in order to a running (maximum, sum, accumulator), splits are merged in order. Nothing depends on other tokens, tiles or threads, and where every
//             block is kept nothing differs from dense attention.
//  Source     online softmax (Milakov & Gimelshein 2018), split over the cache as in flash decoding; AttentionTiles has the inner loops, ICacheElement their arithmetic
//  Reference  Kernels/Reference/ReferenceAttention.cs
//  Tolerance  2e-5 + 2e-5 · |y| with a float cache; 2e-3 with bfloat16, 2e-2 with int8, where a key may round to its other neighbour; equal bits for any tokens, threads, instruction set
internal static unsafe class VectorAttention<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int BlockSize = KvBlockLayout.BlockSize;

    public static void Run(in AttentionArguments arguments, in KernelContext context)
    {
        AttentionSteps.Prepare(arguments);
        if (arguments.Layout.ElementType == KvElementType.BFloat16) Run<BFloat16Element>(arguments, context);
        else if (arguments.Layout.ElementType == KvElementType.Int8) Run<Int8Element>(arguments, context);
        else Run<Float32Element>(arguments, context);
    }

    private static void Run<TCache>(AttentionArguments a, in KernelContext context) where TCache : unmanaged, ICacheElement
    {
        var plan = new AttentionPlan(a, context, Lanes);
        // Every key and value of the step is stored before any query reads: tokens of a prefill see those before them in the same step.
        context.Parallel.For(plan.PackCount * plan.KvHeadCount, i => Append<TCache>(a, plan.Packs[i / plan.KvHeadCount], a.KvHeadBegin + i % plan.KvHeadCount));
        VectorSelection<TLanes>.Run(a, plan, context);
        plan.Bind(a);
        Attend<TCache>(a, plan, context);
        ClearDead(a, plan);
    }

    private static void Attend<TCache>(AttentionArguments a, AttentionPlan plan, in KernelContext context) where TCache : unmanaged, ICacheElement
    {
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

    /// <summary>Comes last: sequences may have died while others were computed.</summary>
    private static void ClearDead(in AttentionArguments a, in AttentionPlan plan)
    {
        nint row = (nint)plan.KvHeadCount * plan.Group * a.HeadDim;
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (!AttentionSteps.IsDead(a, s)) continue;
            for (var t = a.SequenceStarts[s]; t < a.SequenceStarts[s + 1]; t++) new Span<float>(a.Output + t * row, (int)row).Clear();
        }
    }

    private static void Append<TCache>(in AttentionArguments a, in AttentionPack pack, int kvHead) where TCache : unmanaged, ICacheElement
    {
        if (AttentionSteps.IsDead(a, pack.Sequence)) return;
        var rotated = stackalloc float[a.HeadDim];
        var block = Block(a, pack.Sequence, pack.Block);
        var slot = a.Positions[pack.FirstToken] % BlockSize;
        for (var i = 0; i < pack.TokenCount; i++, slot++)
        {
            var t = pack.FirstToken + i;
            Rotate(a, t, a.HeadCount + kvHead, 1, rotated);
            var value = Row(a, t, a.HeadCount + a.KvHeadCount + kvHead);
            float keyScale = 1, valueScale = 1;
            if (TCache.IsScaled)
            {
                *(float*)(block + a.Layout.KeyScale(kvHead, slot)) = keyScale = Int8Element.Scale(new ReadOnlySpan<float>(rotated, a.HeadDim));
                *(float*)(block + a.Layout.ValueScale(kvHead, slot)) = valueScale = Int8Element.Scale(new ReadOnlySpan<float>(value, a.HeadDim));
            }
            Store<TCache>(rotated, a.HeadDim, keyScale, block + a.Layout.Key(kvHead, slot, 0), a.Layout.KeyChannelStride);
            Store<TCache>(value, a.HeadDim, valueScale, block + a.Layout.Value(kvHead, slot), TCache.Bytes);
        }
        KeySums<TLanes, TCache>.Sum(a.Layout, block, kvHead, slot);
        // Only prefill reads gated sums, and a prefill that continues a block computes its sum again: decode owes it for full blocks only.
        if (a.Gate != null && (!pack.IsDecode || slot == BlockSize)) KeySums<TLanes, TCache>.Sum(a.Layout, block, kvHead, slot, a.Gate + (nint)kvHead * BlockSize * a.HeadDim);
    }

    private static void Store<TCache>(float* source, int count, float scale, byte* target, nint stride) where TCache : unmanaged, ICacheElement
    {
        for (var c = 0; c < count; c++, target += stride) TCache.Store(target, !TCache.IsScaled ? source[c] : scale == 0 ? 0 : source[c] / scale);
    }

    /// <summary>All splits of a tile, merged one after another.</summary>
    private static void Attend<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile) where TCache : unmanaged, ICacheElement
    {
        if (AttentionSteps.IsDead(a, tile.Sequence)) return;
        var queryCount = tile.QueryCount;
        var size = queryCount * (plan.Stride + 2);
        var partial = stackalloc float[size];
        var total = stackalloc float[size];
        var queries = stackalloc float[queryCount * a.HeadDim];
        var queryScales = stackalloc float[queryCount];
        Queries<TCache>(a, tile, queries, queryScales);
        for (var split = 0; split < tile.SplitCount; split++)
        {
            AttendSplit<TCache>(a, plan, tile, split, queries, queryScales, split == 0 ? total : partial);
            if (split > 0) Merge(a, plan, tile, split, partial, total);
        }
        Output(a, plan, tile, total);
    }

    /// <summary>Merges the partial results of a tile's splits in order.</summary>
    private static void Merge(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile)
    {
        // A split that was skipped for it left nothing to read.
        if (AttentionSteps.IsDead(a, tile.Sequence)) return;
        var total = plan.Partial(tile.FirstPartial);
        for (var split = 1; split < tile.SplitCount; split++) Merge(a, plan, tile, split, plan.Partial(tile.FirstPartial + split), total);
        Output(a, plan, tile, total);
    }

    private static void AttendSplit<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, int split, float* result) where TCache : unmanaged, ICacheElement
    {
        if (AttentionSteps.IsDead(a, tile.Sequence)) return;
        var queries = stackalloc float[tile.QueryCount * a.HeadDim];
        var queryScales = stackalloc float[tile.QueryCount];
        Queries<TCache>(a, tile, queries, queryScales);
        AttendSplit<TCache>(a, plan, tile, split, queries, queryScales, result);
    }

    /// <summary>One split from nothing: accumulators, maxima and sums of all queries of the tile into <paramref name="result"/>.</summary>
    private static void AttendSplit<TCache>(in AttentionArguments a, in AttentionPlan plan, in AttentionTile tile, int split, float* queries, float* queryScales, float* result)
        where TCache : unmanaged, ICacheElement
    {
        var queryCount = tile.QueryCount;
        var stride = plan.Stride;
        var maxima = result + queryCount * stride;
        var sums = maxima + queryCount;
        new Span<float>(result, queryCount * (stride + 2)).Clear();
        new Span<float>(maxima, queryCount).Fill(float.NegativeInfinity);

        // [queries, 128] scores, then weights
        var scores = stackalloc float[queryCount * BlockSize];
        var weightScales = stackalloc float[queryCount];
        var largest = stackalloc float[queryCount];
        var end = Math.Min(tile.BlockCount, (split + 1) * AttentionPlan.SplitBlocks);
        for (var i = split * AttentionPlan.SplitBlocks; i < end; i++)
        {
            var j = tile.Block(i);
            var block = Block(a, tile.Sequence, j);
            // Tokens whose positions end before the block come first.
            var skipped = Math.Clamp(j * BlockSize - a.Positions[tile.FirstToken], 0, tile.TokenCount) * tile.HeadCount;
            var present = Valid(a, tile, tile.TokenCount - 1, j);
            var values = block + a.Layout.Value(tile.KvHead, 0);
            // Kept blocks lie anywhere: what the processor does not foresee it is told.
            var next = i + 1 < end ? Block(a, tile.Sequence, tile.Block(i + 1)) + a.Layout.KeyTile(tile.KvHead, 0) : null;
            AttentionTiles<TLanes, TCache>.Scores(
                queries + skipped * a.HeadDim, a.HeadDim, queryCount - skipped, block + a.Layout.KeyTile(tile.KvHead, 0), a.HeadDim, present, queryScales + skipped,
                scores + skipped * BlockSize, values);
            // Two passes over all queries, not one over both: within a query the second waits for the first, the queries wait for nothing.
            float* keyScales = (float*)(block + a.Layout.KeyScale(tile.KvHead, 0)), valueScales = (float*)(block + a.Layout.ValueScale(tile.KvHead, 0));
            var largestScale = 0f;
            for (int q = skipped, seen = 0; q < queryCount; q++)
            {
                var valid = Valid(a, tile, q / tile.HeadCount, j);
                if (TCache.IsScaled && seen != valid) largestScale = Largest(valueScales, seen = valid);
                largest[q] = Scale<TCache>(scores + q * BlockSize, valid, keyScales);
                weightScales[q] = largestScale;
            }
            for (var q = skipped; q < queryCount; q++)
                Soften<TCache>(scores + q * BlockSize, Valid(a, tile, q / tile.HeadCount, j), largest[q], valueScales, result + q * stride, stride, ref maxima[q], ref sums[q], ref weightScales[q]);

            for (int q = skipped, count; q < queryCount; q += count)
            {
                count = AttentionTiles<TLanes, TCache>.QueriesTogether(queryCount - q);
                if (TCache.Together > 1)
                {
                    // Whole numbers times zero are zero: all see what the last one sees, and what lies after their own positions adds nothing, whatever it is.
                    AttentionTiles<TLanes, TCache>.Values(scores + q * BlockSize, weightScales + q, count, values, a.HeadDim, 0, Valid(a, tile, (q + count - 1) / tile.HeadCount, j), result + q * stride, stride, q == skipped ? next : null);
                    continue;
                }
                // What all of them see is added together; the rest of each by itself, so that no query touches a value after its own position.
                var common = count > 1 ? Valid(a, tile, q / tile.HeadCount, j) : 0;
                if (common > 0) AttentionTiles<TLanes, TCache>.Values(scores + q * BlockSize, weightScales, count, values, a.HeadDim, 0, common, result + q * stride, stride, q == skipped ? next : null);
                for (var each = q; each < q + count; each++)
                {
                    var valid = Valid(a, tile, each / tile.HeadCount, j);
                    if (valid > common) AttentionTiles<TLanes, TCache>.Values(scores + each * BlockSize, weightScales, 1, values, a.HeadDim, common, valid, result + each * stride, stride);
                }
            }
        }
    }

    /// <summary>Positions of block <paramref name="block"/> that a token of the tile sees.</summary>
    private static int Valid(in AttentionArguments a, in AttentionTile tile, int token, int block) =>
        Math.Clamp(a.Positions[tile.FirstToken + token] + 1 - block * BlockSize, 0, BlockSize);

    /// <summary>Largest of the first <paramref name="count"/> scales, at least one.</summary>
    private static float Largest(float* scales, int count)
    {
        var largest = TLanes.Zero;
        for (var i = 0; i < count; i += Lanes)
        {
            var scale = count - i >= Lanes ? TLanes.Load(scales + i) : LaneMath<TLanes>.LoadFirst(scales + i, count - i);
            largest = TLanes.SelectLess(largest, scale, scale, largest);
        }
        return LaneMath<TLanes>.Max(largest);
    }

    /// <summary>Multiplies the scales of keys into the first <paramref name="valid"/> scores, and returns the largest one. Scores after them, to a whole number of lanes, become -∞.</summary>
    private static float Scale<TCache>(float* scores, int valid, float* keyScales) where TCache : unmanaged, ICacheElement
    {
        var largest = TLanes.Broadcast(float.NegativeInfinity);
        var tail = valid & ~(Lanes - 1);
        for (var i = 0; i < tail; i += Lanes)
        {
            var s = TLanes.Load(scores + i);
            if (TCache.IsScaled) TLanes.Store(s = TLanes.Multiply(s, TLanes.Load(keyScales + i)), scores + i);
            largest = TLanes.SelectLess(largest, s, s, largest);
        }
        if (tail < valid)
        {
            if (TCache.IsScaled) TLanes.Store(TLanes.Multiply(TLanes.Load(scores + tail), TLanes.Load(keyScales + tail)), scores + tail);
            var s = LaneMath<TLanes>.LoadFirst(scores + tail, valid - tail, float.NegativeInfinity);
            TLanes.Store(s, scores + tail);
            largest = TLanes.SelectLess(largest, s, s, largest);
        }
        return LaneMath<TLanes>.Max(largest);
    }

    /// <summary>
    /// Online softmax: turns the first <paramref name="valid"/> scores into weights e^(s - m), m the new maximum, and rescales what was added under the old one. Scales of values are multiplied into
    /// the weights, which are then packed, zeros after them.
    /// </summary>
    /// <param name="scores">[128], -∞ after the valid ones to a whole number of lanes.</param>
    /// <param name="valid">Positions that the query sees.</param>
    /// <param name="largest">Largest of the scores.</param>
    /// <param name="valueScales">[128], with an int8 cache.</param>
    /// <param name="accumulator">[stride].</param>
    /// <param name="stride">Its length.</param>
    /// <param name="maximum">m.</param>
    /// <param name="sum">Sum of the weights.</param>
    /// <param name="weightScale">In: the largest scale of a value. Out: what packed weights are to be multiplied by.</param>
    private static void Soften<TCache>(float* scores, int valid, float largest, float* valueScales, float* accumulator, int stride, ref float maximum, ref float sum, ref float weightScale)
        where TCache : unmanaged, ICacheElement
    {
        var max = maximum < largest ? largest : maximum;
        // No weight exceeds the largest e^(s - m) times the largest scale.
        if (TCache.IsScaled) weightScale *= LaneMath<TLanes>.Exp(largest - max) / short.MaxValue;
        TLanes shift = TLanes.Broadcast(max), pack = TLanes.Broadcast(TCache.IsScaled ? Int8Element.Inverse(weightScale) : 1);
        var weights = TLanes.Zero;
        for (var i = 0; i < valid; i += Lanes)
        {
            var e = LaneMath<TLanes>.Exp(TLanes.Subtract(TLanes.Load(scores + i), shift));
            weights = TLanes.Add(weights, e);
            // Shorts fill half of what has been read: they never overtake. Zero times a scale that was never written is perhaps not a number, which is stored as zero.
            if (TCache.IsScaled) TLanes.StoreInt16(TLanes.Round(TLanes.Multiply(e, TLanes.Multiply(TLanes.Load(valueScales + i), pack))), (short*)scores + i);
            else TLanes.Store(e, scores + i);
        }
        // Others of its tile may see further.
        if (TCache.IsScaled && valid < BlockSize) new Span<short>(scores, BlockSize)[valid..].Clear();
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
        var queryCount = tile.QueryCount;
        nint maxima = queryCount * plan.Stride, sums = maxima + queryCount;
        for (var q = 0; q < queryCount; q++)
        {
            // Kept blocks are seen by all tokens of their tile, of all blocks the last ones by some.
            if (tile.List == null && a.Positions[tile.FirstToken + q / tile.HeadCount] < split * AttentionPlan.SplitBlocks * BlockSize) continue;
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
        var queryCount = tile.QueryCount;
        var sums = total + queryCount * plan.Stride + queryCount;
        var heads = plan.KvHeadCount * plan.Group;
        for (var q = 0; q < queryCount; q++)
        {
            var head = tile.FirstHead - a.KvHeadBegin * plan.Group + q % tile.HeadCount;
            var output = a.Output + ((nint)(tile.FirstToken + q / tile.HeadCount) * heads + head) * a.HeadDim;
            var accumulator = total + q * plan.Stride;
            for (var d = 0; d < a.HeadDim; d++) output[d] = accumulator[d] / sums[q];
        }
    }

    private static void Scale(float* accumulator, int count, float factor)
    {
        var lanes = TLanes.Broadcast(factor);
        for (var d = 0; d < count; d += Lanes) TLanes.Store(TLanes.Multiply(TLanes.Load(accumulator + d), lanes), accumulator + d);
    }

    /// <summary>[tokens · heads, headDim] rotated queries, with the scale of the scores inside, packed for the cache, and [tokens · heads] scales of that.</summary>
    private static void Queries<TCache>(in AttentionArguments a, in AttentionTile tile, float* queries, float* scales) where TCache : unmanaged, ICacheElement
    {
        var scale = (float)(1 / Math.Sqrt(a.HeadDim));
        for (var q = 0; q < tile.QueryCount; q++)
        {
            var query = queries + (nint)q * a.HeadDim;
            Rotate(a, tile.FirstToken + q / tile.HeadCount, tile.FirstHead + q % tile.HeadCount, scale, query);
            scales[q] = TCache.Pack<TLanes>(query, a.HeadDim);
        }
    }

    public static void Rotate(in AttentionArguments a, int token, int row, float scale, float* y)
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
