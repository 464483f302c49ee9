using System.Numerics.Tensors;

namespace Ernie.Sdk.Kernels;

//  Attention, over all blocks of the cache or over selected ones (PLAS)
//      qkv   [tokens, heads + 2 · kvHeads, headDim]                float    q, k, v, not rotated
//      pool  [blocks, KvBlockLayout]                               float, bfloat16 or int8
//      gate  [kvHeads, 128, headDim]                               float, or none
//      out   [tokens, heads of kv heads begin .. end-1, headDim]   float
//  Math       rotate interleaved pairs of q and k by the angles of the token's position; append k and v of the step;
//             out = softmax(q·kᵀ / √headDim) · v over those of the positions 0 .. p that lie in kept blocks; kv head of head h = h / (heads / kvHeads)
//  Selection  ReferenceSelection, for each pack: the step's tokens of a sequence inside one block
//  Source     ERNIE 4.5 in transformers (Ernie4_5Attention); rotation is GPT-J's pairing, not the half-split one. FastDeploy's moba_attn for the selection
//  Reference  this file
//  Tolerance  the definition: rotated keys and values are rounded to the cache's type once, everything after reads the rounded ones; sums are in double
internal static unsafe class ReferenceAttention
{
    public static void Run(AttentionArguments a, KernelContext context)
    {
        AttentionSteps.Prepare(a);
        // All keys and values of the step before any query: a token of a prefill sees the tokens before it in the same step.
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (AttentionSteps.IsDead(a, s)) continue;
            for (var t = a.SequenceStarts[s]; t < a.SequenceStarts[s + 1]; t++) Append(a, s, t);
            foreach (var (_, _, block) in Packs(a, s)) Summarise(a, s, block);
        }
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (AttentionSteps.IsDead(a, s))
            {
                for (var t = a.SequenceStarts[s]; t < a.SequenceStarts[s + 1]; t++)
                {
                    for (var h = a.KvHeadBegin * Group(a); h < a.KvHeadEnd * Group(a); h++) Output(a, t, h).Clear();
                }
                continue;
            }
            foreach (var pack in Packs(a, s)) Attend(a, context, s, pack);
        }
    }

    /// <summary>The step's tokens of a sequence, cut where a block of the cache ends.</summary>
    private static List<(int FirstToken, int TokenCount, int Block)> Packs(in AttentionArguments a, int sequence)
    {
        var packs = new List<(int, int, int)>();
        for (int t = a.SequenceStarts[sequence], count; t < a.SequenceStarts[sequence + 1]; t += count)
        {
            count = Math.Min(a.SequenceStarts[sequence + 1] - t, KvBlockLayout.BlockSize - a.Positions[t] % KvBlockLayout.BlockSize);
            packs.Add((t, count, a.Positions[t] / KvBlockLayout.BlockSize));
        }
        return packs;
    }

    private static void Append(in AttentionArguments a, int sequence, int token)
    {
        var position = a.Positions[token];
        var slot = position % KvBlockLayout.BlockSize;
        var block = Block(a, sequence, position / KvBlockLayout.BlockSize);
        for (var h = a.KvHeadBegin; h < a.KvHeadEnd; h++)
        {
            var key = Array.ConvertAll(Rotated(a, token, a.HeadCount + h), static x => (float)x);
            var value = new ReadOnlySpan<float>(Row(a, token, a.HeadCount + a.KvHeadCount + h), a.HeadDim).ToArray();
            float keyScale = 1, valueScale = 1;
            if (a.Layout.HasScales)
            {
                *(float*)(block + a.Layout.KeyScale(h, slot)) = keyScale = Int8Element.Scale(key);
                *(float*)(block + a.Layout.ValueScale(h, slot)) = valueScale = Int8Element.Scale(value);
            }
            for (var c = 0; c < a.HeadDim; c++)
            {
                Write(a.Layout, block + a.Layout.Key(h, slot, c), key[c], keyScale);
                Write(a.Layout, block + a.Layout.Value(h, slot) + (nint)c * a.Layout.ElementBytes, value[c], valueScale);
            }
        }
    }

    /// <summary>Σ k and Σ k · gate over the cached positions of a block.</summary>
    private static void Summarise(in AttentionArguments a, int sequence, int block)
    {
        var address = Block(a, sequence, block);
        for (var h = a.KvHeadBegin; h < a.KvHeadEnd; h++)
        {
            var keys = Keys(a, sequence, h, block);
            for (var c = 0; c < a.HeadDim; c++)
            {
                double sum = 0, gated = 0;
                for (var b = 0; b < keys.Length; b++)
                {
                    sum += keys[b][c];
                    if (a.Gate != null) gated += keys[b][c] * a.Gate[((nint)h * KvBlockLayout.BlockSize + b) * a.HeadDim + c];
                }
                ((float*)(address + a.Layout.KeySum(h)))[c] = (float)sum;
                if (a.Gate != null) ((float*)(address + a.Layout.GatedSum(h)))[c] = (float)gated;
            }
        }
    }

    private static void Attend(AttentionArguments a, KernelContext context, int sequence, (int FirstToken, int TokenCount, int Block) pack)
    {
        var heads = (a.KvHeadEnd - a.KvHeadBegin) * Group(a);
        var kept = new int[heads][];
        if (!AttentionSteps.IsSparse(a, sequence, pack.Block)) Array.Fill(kept, [.. Enumerable.Range(0, pack.Block + 1)]);
        else if (AttentionSteps.IsDecode(a, sequence))
        {
            context.Parallel.For(a.KvHeadEnd - a.KvHeadBegin, i =>
            {
                var h = a.KvHeadBegin + i;
                var means = Enumerable.Range(0, pack.Block + 1).Select(j => Mean(a, sequence, h, j)).ToArray();
                var queries = Enumerable.Range(h * Group(a), Group(a)).Select(head => Rotated(a, pack.FirstToken, head)).ToArray();
                Array.Fill(kept, ReferenceSelection.Decode(queries, means, a.Limits[sequence]), i * Group(a), Group(a));
            });
            for (var h = a.KvHeadBegin; h < a.KvHeadEnd; h++)
                a.Selections?.Add(new BlockSelection(sequence, pack.FirstToken, 1, true, h, kept[(h - a.KvHeadBegin) * Group(a)]));
        }
        else
        {
            context.Parallel.For(heads, i =>
            {
                var head = a.KvHeadBegin * Group(a) + i;
                var summaries = Enumerable.Range(0, pack.Block + 1).Select(j => a.Gate == null ? Mean(a, sequence, head / Group(a), j) : Gated(a, sequence, head / Group(a), j)).ToArray();
                var queries = Enumerable.Range(pack.FirstToken, pack.TokenCount).Select(t => Rotated(a, t, head)).ToArray();
                kept[i] = ReferenceSelection.Prefill(queries, summaries, a.Limits[sequence]);
            });
            for (var i = 0; i < heads; i++) a.Selections?.Add(new BlockSelection(sequence, pack.FirstToken, pack.TokenCount, false, a.KvHeadBegin * Group(a) + i, kept[i]));
        }
        context.Parallel.For(heads, i => Attend(a, sequence, pack, a.KvHeadBegin * Group(a) + i, kept[i]));
    }

    private static void Attend(in AttentionArguments a, int sequence, (int FirstToken, int TokenCount, int Block) pack, int head, int[] kept)
    {
        var kvHead = head / Group(a);
        var positions = new List<int>();
        var keys = new List<double[]>();
        var values = new List<double[]>();
        foreach (var j in kept)
        {
            positions.AddRange(Enumerable.Range(j * KvBlockLayout.BlockSize, AttentionSteps.Present(a, sequence, j)));
            keys.AddRange(Keys(a, sequence, kvHead, j));
            values.AddRange(Values(a, sequence, kvHead, j));
        }
        for (var t = pack.FirstToken; t < pack.FirstToken + pack.TokenCount; t++)
        {
            var query = Rotated(a, t, head);
            // Kept positions ascend: the last ones may lie after the token.
            var count = positions.Count;
            while (positions[count - 1] > a.Positions[t]) count--;
            var scores = new double[count];
            for (var i = 0; i < count; i++) scores[i] = TensorPrimitives.Dot<double>(query, keys[i]) / Math.Sqrt(a.HeadDim);
            var max = scores.Max();
            double total = 0;
            for (var i = 0; i < count; i++) total += scores[i] = Math.Exp(scores[i] - max);
            var sum = new double[a.HeadDim];
            for (var i = 0; i < count; i++) TensorPrimitives.MultiplyAdd(values[i], scores[i], sum, sum);
            var output = Output(a, t, head);
            for (var c = 0; c < a.HeadDim; c++) output[c] = (float)(sum[c] / total);
        }
    }

    /// <summary>y[2i] = x[2i]·cos - x[2i+1]·sin,  y[2i+1] = x[2i]·sin + x[2i+1]·cos.</summary>
    private static double[] Rotated(in AttentionArguments a, int token, int row)
    {
        var x = Row(a, token, row);
        var angles = a.Rope.Row(a.Positions[token]);
        var y = new double[a.HeadDim];
        for (var i = 0; i < a.HeadDim; i += 2)
        {
            double cos = angles[i], sin = angles[i + 1];
            y[i] = x[i] * cos - x[i + 1] * sin;
            y[i + 1] = x[i] * sin + x[i + 1] * cos;
        }
        return y;
    }

    private static int Group(in AttentionArguments a) => a.HeadCount / a.KvHeadCount;

    private static float* Row(in AttentionArguments a, int token, int row) =>
        a.Qkv + ((nint)token * (a.HeadCount + 2 * a.KvHeadCount) + row) * a.HeadDim;

    private static Span<float> Output(in AttentionArguments a, int token, int head) =>
        new(a.Output + ((nint)token * (a.KvHeadEnd - a.KvHeadBegin) * Group(a) + head - a.KvHeadBegin * Group(a)) * a.HeadDim, a.HeadDim);

    private static byte* Block(in AttentionArguments a, int sequence, int block) =>
        a.Pool + a.BlockTables[(nint)sequence * a.BlockTableStride + block] * a.Layout.BlockBytes;

    private static double[] Mean(in AttentionArguments a, int sequence, int kvHead, int block)
    {
        var sum = (float*)(Block(a, sequence, block) + a.Layout.KeySum(kvHead));
        var mean = new double[a.HeadDim];
        for (var c = 0; c < a.HeadDim; c++) mean[c] = (double)sum[c] / AttentionSteps.Present(a, sequence, block);
        return mean;
    }

    private static double[] Gated(in AttentionArguments a, int sequence, int kvHead, int block) =>
        Array.ConvertAll(new ReadOnlySpan<float>(Block(a, sequence, block) + a.Layout.GatedSum(kvHead), a.HeadDim).ToArray(), static x => (double)x);

    /// <summary>[present, headDim] cached keys of a block.</summary>
    private static double[][] Keys(in AttentionArguments a, int sequence, int kvHead, int block)
    {
        var address = Block(a, sequence, block);
        var keys = new double[AttentionSteps.Present(a, sequence, block)][];
        for (var b = 0; b < keys.Length; b++)
        {
            var scale = a.Layout.HasScales ? *(float*)(address + a.Layout.KeyScale(kvHead, b)) : 1;
            keys[b] = new double[a.HeadDim];
            for (var c = 0; c < a.HeadDim; c++) keys[b][c] = Read(a.Layout, address + a.Layout.Key(kvHead, b, c), scale);
        }
        return keys;
    }

    /// <summary>[present, headDim] cached values of a block.</summary>
    private static double[][] Values(in AttentionArguments a, int sequence, int kvHead, int block)
    {
        var address = Block(a, sequence, block);
        var values = new double[AttentionSteps.Present(a, sequence, block)][];
        for (var b = 0; b < values.Length; b++)
        {
            var scale = a.Layout.HasScales ? *(float*)(address + a.Layout.ValueScale(kvHead, b)) : 1;
            values[b] = new double[a.HeadDim];
            for (var c = 0; c < a.HeadDim; c++) values[b][c] = Read(a.Layout, address + a.Layout.Value(kvHead, b) + (nint)c * a.Layout.ElementBytes, scale);
        }
        return values;
    }

    private static double Read(KvBlockLayout layout, byte* address, double scale) => layout.ElementType switch
    {
        KvElementType.Float32 => *(float*)address,
        KvElementType.BFloat16 => BFloat16.ToSingle(*(ushort*)address),
        _ => *(sbyte*)address * scale,
    };

    private static void Write(KvBlockLayout layout, byte* address, float value, float scale)
    {
        switch (layout.ElementType)
        {
            case KvElementType.Float32: *(float*)address = value; break;
            case KvElementType.BFloat16: *(ushort*)address = BFloat16.FromSingle(value); break;
            default: Int8Element.Store(address, scale == 0 ? 0 : value / scale); break;
        }
    }
}
