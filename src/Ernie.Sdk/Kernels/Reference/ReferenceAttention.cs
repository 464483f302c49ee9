namespace Ernie.Sdk.Kernels;

//  Attention, dense
//      qkv   [tokens, heads + 2 · kvHeads, headDim]                float    q, k, v, not rotated
//      pool  [blocks, KvBlockLayout]                               float or bfloat16
//      out   [tokens, heads of kv heads begin .. end-1, headDim]   float
//  Math       rotate interleaved pairs of q and k by the angles of the token's position; append k and v of the step;
//             out = softmax(q·kᵀ / √headDim) · v over positions 0 .. p of the sequence; kv head of head h = h / (heads / kvHeads)
//  Source     ERNIE 4.5 in transformers (Ernie4_5Attention); rotation is GPT-J's pairing, not the half-split one
//  Reference  this file
//  Tolerance  the definition: rotated keys are rounded to the cache's type once, sums are in double
internal static unsafe class ReferenceAttention
{
    public static void Run(AttentionArguments a, KernelContext context)
    {
        AttentionSteps.Prepare(a);
        // All keys and values of the step before any query: a token of a prefill sees the tokens before it in the same step.
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (IsDead(a, s)) continue;
            for (var t = a.SequenceStarts[s]; t < a.SequenceStarts[s + 1]; t++) Append(a, s, t);
        }
        var group = a.HeadCount / a.KvHeadCount;
        var headBegin = a.KvHeadBegin * group;
        var heads = (a.KvHeadEnd - a.KvHeadBegin) * group;
        for (var s = 0; s < a.SequenceCount; s++)
        {
            var sequence = s;
            var first = a.SequenceStarts[s];
            context.Parallel.For((a.SequenceStarts[s + 1] - first) * heads, item =>
            {
                var t = first + item / heads;
                var h = item % heads;
                var output = new Span<float>(a.Output + ((nint)t * heads + h) * a.HeadDim, a.HeadDim);
                if (IsDead(a, sequence)) output.Clear();
                else Attend(a, sequence, t, headBegin + h, output);
            });
        }
    }

    private static bool IsDead(in AttentionArguments a, int sequence) => ((SequenceFlags)a.Flags[sequence] & SequenceFlags.Dead) != 0;

    private static void Append(in AttentionArguments a, int sequence, int token)
    {
        var position = a.Positions[token];
        var slot = position % KvBlockLayout.BlockSize;
        var block = Block(a, sequence, position);
        for (var h = a.KvHeadBegin; h < a.KvHeadEnd; h++)
        {
            var key = Rotated(a, token, a.HeadCount + h);
            var value = Row(a, token, a.HeadCount + a.KvHeadCount + h);
            for (var c = 0; c < a.HeadDim; c++)
            {
                Write(a.Layout, block + a.Layout.Key(h, slot, c), (float)key[c]);
                Write(a.Layout, block + a.Layout.Value(h, slot) + (nint)c * a.Layout.ElementBytes, value[c]);
            }
        }
    }

    private static void Attend(in AttentionArguments a, int sequence, int token, int head, Span<float> output)
    {
        var kvHead = head / (a.HeadCount / a.KvHeadCount);
        var count = a.Positions[token] + 1;
        var query = Rotated(a, token, head);

        var scores = new double[count];
        for (var j = 0; j < count; j++)
        {
            var block = Block(a, sequence, j);
            double score = 0;
            for (var c = 0; c < a.HeadDim; c++) score += query[c] * Read(a.Layout, block + a.Layout.Key(kvHead, j % KvBlockLayout.BlockSize, c));
            scores[j] = score / Math.Sqrt(a.HeadDim);
        }

        var max = scores.Max();
        double total = 0;
        for (var j = 0; j < count; j++) total += scores[j] = Math.Exp(scores[j] - max);

        for (var c = 0; c < a.HeadDim; c++)
        {
            double sum = 0;
            for (var j = 0; j < count; j++)
            {
                var value = Block(a, sequence, j) + a.Layout.Value(kvHead, j % KvBlockLayout.BlockSize);
                sum += scores[j] * Read(a.Layout, value + (nint)c * a.Layout.ElementBytes);
            }
            output[c] = (float)(sum / total);
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

    private static float* Row(in AttentionArguments a, int token, int row) =>
        a.Qkv + ((nint)token * (a.HeadCount + 2 * a.KvHeadCount) + row) * a.HeadDim;

    private static byte* Block(in AttentionArguments a, int sequence, int position) =>
        a.Pool + a.BlockTables[(nint)sequence * a.BlockTableStride + position / KvBlockLayout.BlockSize] * a.Layout.BlockBytes;

    private static float Read(KvBlockLayout layout, byte* address) =>
        layout.ElementType == KvElementType.Float32 ? *(float*)address : BFloat16.ToSingle(*(ushort*)address);

    private static void Write(KvBlockLayout layout, byte* address, float value)
    {
        if (layout.ElementType == KvElementType.Float32) *(float*)address = value;
        else *(ushort*)address = BFloat16.FromSingle(value);
    }
}
