using System.Buffers;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

//  Selection of blocks (PLAS)
//      queries    rows of [headDim]                       float    rotated, not scaled
//      sums       [headDim] a block and KV head           float    in the cache
//      scores     prefill [groups, 16 tokens, 128 blocks], decode [heads, blocks rounded up to 128]
//      list       length, then kept blocks                int32    one a pack and query head, in decode one a KV head
//  Math       see ReferenceSelection. Prefill lays the summaries of a sequence out like the keys of blocks, so that AttentionTiles scores them; decode reads them where they lie
//  Source     FastDeploy's moba_attn
//  Reference  Kernels/Reference/ReferenceSelection.cs
//  Tolerance  the same lists, but for blocks whose score lies within rounding of the threshold; equal lists for any tokens, threads, instruction set
internal static unsafe class VectorSelection<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int BlockSize = KvBlockLayout.BlockSize;
    private const int Rounds = ReferenceSelection.Rounds;
    /// <summary>Tokens that are scored together: 64 KB of summaries stay near while four fours of queries pass over them.</summary>
    private const int ScoredTokens = 16;
    /// <summary>Blocks of a work item of decode, whose reads wait for memory.</summary>
    private const int ScoredBlocks = 64;
    private const int CacheLine = 64;

    /// <summary>Fills the lists of all sparse packs.</summary>
    public static void Run(AttentionArguments a, AttentionPlan plan, in KernelContext context)
    {
        if (plan.HasSparsePrefill)
        {
            context.Parallel.For(plan.PackCount * plan.KvHeadCount, i => Summaries(a, plan, plan.Packs[i / plan.KvHeadCount], i % plan.KvHeadCount));
            var heads = plan.KvHeadCount * plan.Group;
            context.Parallel.For(plan.PackCount * heads, i => SelectForPrefill(a, plan, plan.Packs[i / heads], i % heads));
        }
        if (plan.DecodeGroups > 0)
        {
            var ranges = plan.DecodeGroups * (BlockSize / ScoredBlocks);
            context.Parallel.For(plan.PackCount * ranges, i => Scores(a, plan, plan.Packs[i / ranges], i % ranges * ScoredBlocks));
            context.Parallel.For(plan.PackCount * plan.KvHeadCount, i => SelectForDecode(a, plan, plan.Packs[i / plan.KvHeadCount], i % plan.KvHeadCount));
        }
        if (a.Selections is { } selections) Report(a, plan, selections);
    }

    /// <summary>The summaries of a sequence, 16 blocks side by side; after its last block zeros.</summary>
    private static void Summaries(in AttentionArguments a, in AttentionPlan plan, in AttentionPack pack, int head)
    {
        if (!pack.IsSparse || pack.IsDecode || !pack.IsLast || AttentionSteps.IsDead(a, pack.Sequence)) return;
        var groups = AttentionPlan.Groups(pack.Block + 1);
        var target = pack.Scratch + (nint)head * groups * BlockSize * a.HeadDim;
        for (var j = 0; j < groups * BlockSize; j++)
        {
            var lane = target + (nint)(j / Lanes) * a.HeadDim * Lanes + j % Lanes;
            if (j > pack.Block)
            {
                for (var c = 0; c < a.HeadDim; c++) lane[c * Lanes] = 0;
                continue;
            }
            var block = Block(a, pack.Sequence, j);
            var source = (float*)(block + (a.Gate == null ? a.Layout.KeySum(a.KvHeadBegin + head) : a.Layout.GatedSum(a.KvHeadBegin + head)));
            float divisor = a.Gate == null ? AttentionSteps.Present(a, pack.Sequence, j) : 1;
            for (var c = 0; c < a.HeadDim; c++) lane[c * Lanes] = source[c] / divisor;
        }
    }

    private static void SelectForPrefill(in AttentionArguments a, in AttentionPlan plan, in AttentionPack pack, int head)
    {
        if (!pack.IsSparse || pack.IsDecode || AttentionSteps.IsDead(a, pack.Sequence)) return;
        var candidates = pack.Block + 1;
        var groups = AttentionPlan.Groups(candidates);
        // The sequence's later packs have more groups.
        var sequenceGroups = AttentionPlan.Groups(a.Positions[a.SequenceStarts[pack.Sequence + 1] - 1] / BlockSize + 1);
        var summaries = pack.Scratch + (nint)(head / plan.Group) * sequenceGroups * BlockSize * a.HeadDim;
        ref readonly var limits = ref a.Limits[pack.Sequence];

        var rented = ArrayPool<float>.Shared.Rent(groups * BlockSize * (ScoredTokens + 1));
        fixed (float* scores = rented)
        {
            var chosen = scores + groups * BlockSize * ScoredTokens;
            new Span<float>(chosen, groups * BlockSize).Clear();
            var queries = stackalloc float[ScoredTokens * a.HeadDim];
            for (var first = 0; first < pack.TokenCount; first += ScoredTokens)
            {
                var count = Math.Min(ScoredTokens, pack.TokenCount - first);
                for (var t = 0; t < count; t++) VectorAttention<TLanes>.Rotate(a, pack.FirstToken + first + t, a.KvHeadBegin * plan.Group + head, 1, queries + t * a.HeadDim);
                for (var g = 0; g < groups; g++)
                {
                    AttentionTiles<TLanes, Float32Element>.Scores(queries, a.HeadDim, count, (byte*)(summaries + (nint)g * BlockSize * a.HeadDim), a.HeadDim,
                        Math.Min(BlockSize, candidates - g * BlockSize), null, scores + g * BlockSize * ScoredTokens);
                }
                for (var t = 0; t < count; t++) Choose(scores + t * BlockSize, BlockSize * ScoredTokens, candidates, limits.EncoderTopKLeft, limits.EncoderTopKRight, chosen);
            }
            (chosen[0], chosen[pack.Block]) = (1, 1);
            Write(chosen, candidates, pack.List(head));
        }
        ArrayPool<float>.Shared.Return(rented);
    }

    /// <summary>Scores of a decode step and blocks [first, first + <see cref="ScoredBlocks"/>), all heads: the sums of a block lie side by side.</summary>
    private static void Scores(in AttentionArguments a, in AttentionPlan plan, in AttentionPack pack, int first)
    {
        if (!pack.IsSparse || !pack.IsDecode || first > pack.Block || AttentionSteps.IsDead(a, pack.Sequence)) return;
        var heads = plan.KvHeadCount * plan.Group;
        nint row = AttentionPlan.Groups(pack.Block + 1) * BlockSize;
        var queries = stackalloc float[heads * plan.Stride];
        new Span<float>(queries, heads * plan.Stride).Clear();
        for (var h = 0; h < heads; h++) VectorAttention<TLanes>.Rotate(a, pack.FirstToken, a.KvHeadBegin * plan.Group + h, 1, queries + h * plan.Stride);
        var results = stackalloc float[5];
        var end = Math.Min(pack.Block + 1, first + ScoredBlocks);
        for (var j = first; j < end; j++)
        {
            var sums = (float*)(Block(a, pack.Sequence, j) + a.Layout.KeySum(a.KvHeadBegin));
            // Blocks lie anywhere: what the processor does not foresee it is told.
            if (j + 1 < end) Prefetch((byte*)(Block(a, pack.Sequence, j + 1) + a.Layout.KeySum(a.KvHeadBegin)), plan.KvHeadCount * a.HeadDim * sizeof(float));
            float count = AttentionSteps.Present(a, pack.Sequence, j);
            for (var h = 0; h < heads; h++)
            {
                var sum = sums + (nint)(h / plan.Group) * a.HeadDim;
                var query = queries + h * plan.Stride;
                var left = plan.Group - h % plan.Group;
                if (left >= 4)
                {
                    var together = left == 5 ? 5 : 4;
                    Products(sum, query, plan.Stride, a.HeadDim, together, results);
                    for (var i = 0; i < together; i++) pack.Scratch[(h + i) * row + j] = results[i] / count;
                    h += together - 1;
                }
                else
                {
                    pack.Scratch[h * row + j] = Product(sum, query, a.HeadDim) / count;
                }
            }
        }
    }

    private static float Product(float* sum, float* query, int headDim)
    {
        var whole = headDim / Lanes * Lanes;
        var products = TLanes.Zero;
        for (var c = 0; c < whole; c += Lanes) products = TLanes.MultiplyAdd(TLanes.Load(sum + c), TLanes.Load(query + c), products);
        if (whole < headDim) products = TLanes.MultiplyAdd(LaneMath<TLanes>.LoadFirst(sum + whole, headDim - whole), TLanes.Load(query + whole), products);
        return LaneMath<TLanes>.Sum(products);
    }

    /// <summary>As <see cref="Product"/>, of four or five queries.</summary>
    private static void Products(float* sum, float* queries, int stride, int headDim, int count, float* results)
    {
        var whole = headDim / Lanes * Lanes;
        float* q1 = queries + stride, q2 = q1 + stride, q3 = q2 + stride, q4 = count == 5 ? q3 + stride : q3;
        TLanes p0 = TLanes.Zero, p1 = p0, p2 = p0, p3 = p0, p4 = p0;
        for (var c = 0; c < headDim; c += Lanes)
        {
            var s = c < whole ? TLanes.Load(sum + c) : LaneMath<TLanes>.LoadFirst(sum + c, headDim - c);
            p0 = TLanes.MultiplyAdd(s, TLanes.Load(queries + c), p0);
            p1 = TLanes.MultiplyAdd(s, TLanes.Load(q1 + c), p1);
            p2 = TLanes.MultiplyAdd(s, TLanes.Load(q2 + c), p2);
            p3 = TLanes.MultiplyAdd(s, TLanes.Load(q3 + c), p3);
            p4 = TLanes.MultiplyAdd(s, TLanes.Load(q4 + c), p4);
        }
        LaneMath<TLanes>.Sums(p0, p1, p2, p3).Store(results);
        if (count == 5) results[4] = LaneMath<TLanes>.Sum(p4);
    }

    private static void Prefetch(byte* address, int bytes)
    {
        if (!Sse.IsSupported) return;
        for (var i = 0; i < bytes; i += CacheLine) Sse.Prefetch0(address + i);
    }

    private static void SelectForDecode(in AttentionArguments a, in AttentionPlan plan, in AttentionPack pack, int kvHead)
    {
        if (!pack.IsSparse || !pack.IsDecode || AttentionSteps.IsDead(a, pack.Sequence)) return;
        var candidates = pack.Block + 1;
        var row = AttentionPlan.Groups(candidates) * BlockSize;
        ref readonly var limits = ref a.Limits[pack.Sequence];
        var rented = ArrayPool<float>.Shared.Rent(row);
        fixed (float* chosen = rented)
        {
            new Span<float>(chosen, row).Clear();
            for (var h = 0; h < plan.Group; h++) Choose(pack.Scratch + (nint)(kvHead * plan.Group + h) * row, BlockSize, candidates, limits.DecoderTopKLeft, limits.DecoderTopKRight, chosen);
            (chosen[0], chosen[pack.Block], chosen[Math.Max(0, pack.Block - 1)]) = (1, 1, 1);
            Write(chosen, candidates, pack.List(kvHead));
        }
        ArrayPool<float>.Shared.Return(rented);
    }

    /// <summary>Marks what one query chooses. Scores lie in groups of 128, <paramref name="stride"/> floats apart.</summary>
    private static void Choose(float* scores, int stride, int count, int left, int right, float* chosen)
    {
        // Lanes past the last score repeat the first one, then fall below every threshold.
        Pad(scores, stride, count, scores[0]);
        TLanes low = TLanes.Load(scores), high = low;
        for (var j = 0; j < count; j += Lanes)
        {
            var s = TLanes.Load(At(scores, stride, j));
            low = TLanes.SelectLess(s, low, s, low);
            high = TLanes.SelectLess(high, s, s, high);
        }
        float lowest = -LaneMath<TLanes>.Max(TLanes.Subtract(TLanes.Zero, low)), highest = LaneMath<TLanes>.Max(high), threshold = lowest;
        if (lowest < highest)
        {
            Pad(scores, stride, count, float.NegativeInfinity);
            for (var round = 0; round < Rounds; round++)
            {
                threshold = (lowest + highest) * 0.5f;
                var reached = Reached(scores, stride, count, threshold);
                if (reached < left) highest = threshold;
                else if (reached > right) lowest = threshold;
                else break;
            }
        }
        var edge = TLanes.Broadcast(threshold);
        var one = TLanes.Broadcast(1);
        for (var j = 0; j < count; j += Lanes) TLanes.Store(TLanes.SelectLess(TLanes.Load(At(scores, stride, j)), edge, TLanes.Load(chosen + j), one), chosen + j);
    }

    /// <summary>How many scores are not below the threshold.</summary>
    private static int Reached(float* scores, int stride, int count, float threshold)
    {
        var edge = TLanes.Broadcast(threshold);
        var one = TLanes.Broadcast(1);
        var total = TLanes.Zero;
        for (var j = 0; j < count; j += Lanes) total = TLanes.Add(total, TLanes.SelectLess(TLanes.Load(At(scores, stride, j)), edge, TLanes.Zero, one));
        return (int)LaneMath<TLanes>.Sum(total);
    }

    private static void Pad(float* scores, int stride, int count, float value)
    {
        for (var j = count; j % Lanes != 0; j++) *At(scores, stride, j) = value;
    }

    private static float* At(float* scores, int stride, int index) => scores + (nint)(index / BlockSize) * stride + index % BlockSize;

    private static void Write(float* chosen, int count, int* list)
    {
        var kept = 0;
        for (var j = 0; j < count; j++)
        {
            if (chosen[j] != 0) list[++kept] = j;
        }
        list[0] = kept;
    }

    private static void Report(in AttentionArguments a, in AttentionPlan plan, BlockSelections selections)
    {
        for (var i = 0; i < plan.PackCount; i++)
        {
            ref readonly var pack = ref plan.Packs[i];
            if (!pack.IsSparse || AttentionSteps.IsDead(a, pack.Sequence)) continue;
            var (lists, begin) = pack.IsDecode ? (plan.KvHeadCount, a.KvHeadBegin) : (plan.KvHeadCount * plan.Group, a.KvHeadBegin * plan.Group);
            for (var h = 0; h < lists; h++)
            {
                var list = pack.List(h);
                selections.Add(new BlockSelection(pack.Sequence, pack.FirstToken, pack.TokenCount, pack.IsDecode, begin + h, new ReadOnlySpan<int>(list + 1, list[0]).ToArray()));
            }
        }
    }

    private static byte* Block(in AttentionArguments a, int sequence, int block) =>
        a.Pool + a.BlockTables[(nint)sequence * a.BlockTableStride + block] * a.Layout.BlockBytes;
}
