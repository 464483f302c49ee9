using System.Numerics.Tensors;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>What one block of a prompt read in one layer.</summary>
/// <param name="Block">The block that holds the tokens.</param>
/// <param name="Kept">[query heads] kept blocks of each, ascending; null: every head read all.</param>
/// <param name="Mass">[query heads] share of dense attention's softmax that lies in the kept blocks, a mean over sampled tokens.</param>
internal sealed record PlasMapRow(int Block, int[][]? Kept, double[] Mass);

/// <summary>Kernels that note which blocks a prompt reads, and how much of the softmax over all of them they hold. For one prompt at a time.</summary>
internal sealed unsafe class PlasMapKernels(CpuKernels inner) : CpuKernels
{
    /// <summary>Tokens of a block whose softmax is computed in full.</summary>
    public const int SampledTokens = 8;
    private const int BlockSize = KvBlockLayout.BlockSize;
    private readonly BlockSelections _selections = new();
    private readonly List<(nint Pool, List<PlasMapRow> Rows)> _layers = [];

    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;

    /// <summary>[layers] the prompt's blocks in order.</summary>
    public IReadOnlyList<IReadOnlyList<PlasMapRow>> Layers => [.. _layers.Select(static layer => layer.Rows)];

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => inner.Linear(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in KernelContext context) => inner.Experts(arguments, context);

    public override void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        var a = arguments;
        a.Selections = _selections;
        _selections.Clear();
        inner.Attention(a, context);
        var rows = Rows((nint)a.Pool);
        var heads = a.HeadCount;
        var bySelection = _selections.Items.Where(static s => !s.IsDecode).ToLookup(static s => s.FirstToken);
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (AttentionSteps.IsDecode(a, s)) continue;
            for (int t = a.SequenceStarts[s], count; t < a.SequenceStarts[s + 1]; t += count)
            {
                count = Math.Min(a.SequenceStarts[s + 1] - t, BlockSize - a.Positions[t] % BlockSize);
                var kept = bySelection[t].OrderBy(static selection => selection.Head).Select(static selection => selection.Blocks).ToArray();
                var mass = new double[heads];
                if (kept.Length == 0) Array.Fill(mass, 1);
                else Measure(a, context, s, t, count, kept, mass);
                rows.Add(new PlasMapRow(a.Positions[t] / BlockSize, kept.Length == 0 ? null : kept, mass));
            }
        }
    }

    /// <summary>A layer is known by its part of the cache.</summary>
    private List<PlasMapRow> Rows(nint pool)
    {
        foreach (var (known, rows) in _layers)
        {
            if (known == pool) return rows;
        }
        _layers.Add((pool, []));
        return _layers[^1].Rows;
    }

    private static void Measure(AttentionArguments a, in KernelContext context, int sequence, int first, int count, int[][] kept, double[] mass)
    {
        var group = a.HeadCount / a.KvHeadCount;
        int[] tokens = [.. Enumerable.Range(0, Math.Min(SampledTokens, count)).Select(i => first + (i + 1) * count / Math.Min(SampledTokens, count) - 1)];
        var blocks = a.Positions[first] / BlockSize + 1;
        context.Parallel.For(a.KvHeadCount, kvHead =>
        {
            var keys = new float[BlockSize * a.HeadDim];
            var queries = new float[tokens.Length * group * a.HeadDim];
            fixed (float* q = queries)
            {
                for (var i = 0; i < tokens.Length * group; i++)
                    VectorAttention<Lanes128>.Rotate(a, tokens[i / group], kvHead * group + i % group, (float)(1 / Math.Sqrt(a.HeadDim)), q + (nint)i * a.HeadDim);
            }
            // [queries, blocks] logarithm of the block's sum of e^score
            var sums = new double[tokens.Length * group][];
            for (var i = 0; i < sums.Length; i++) sums[i] = new double[blocks];
            for (var j = 0; j < blocks; j++)
            {
                ReadKeys(a, sequence, kvHead, j, keys);
                for (var i = 0; i < sums.Length; i++)
                {
                    var visible = Math.Min(BlockSize, a.Positions[tokens[i / group]] + 1 - j * BlockSize);
                    var scores = new double[visible];
                    for (var p = 0; p < visible; p++) scores[p] = TensorPrimitives.Dot(queries.AsSpan(i * a.HeadDim, a.HeadDim), keys.AsSpan(p * a.HeadDim, a.HeadDim));
                    sums[i][j] = LogSumExp(scores);
                }
            }
            for (var i = 0; i < sums.Length; i++)
            {
                var head = kvHead * group + i % group;
                mass[head] += Math.Exp(LogSumExp([.. kept[head].Select(j => sums[i][j])]) - LogSumExp(sums[i])) / tokens.Length;
            }
        });
    }

    private static double LogSumExp(double[] values)
    {
        var max = values.Max();
        return max + Math.Log(values.Sum(value => Math.Exp(value - max)));
    }

    /// <summary>[128, headDim] keys of a block; positions that are not cached hold anything.</summary>
    private static void ReadKeys(in AttentionArguments a, int sequence, int kvHead, int block, float[] keys)
    {
        var address = a.Pool + a.BlockTables[(nint)sequence * a.BlockTableStride + block] * a.Layout.BlockBytes;
        for (var p = 0; p < BlockSize; p++)
        {
            var scale = a.Layout.HasScales ? *(float*)(address + a.Layout.KeyScale(kvHead, p)) : 1;
            for (var c = 0; c < a.HeadDim; c++)
            {
                var key = address + a.Layout.Key(kvHead, p, c);
                keys[p * a.HeadDim + c] = a.Layout.ElementType switch { KvElementType.Float32 => *(float*)key, KvElementType.BFloat16 => BFloat16.ToSingle(*(ushort*)key), _ => *(sbyte*)key * scale };
            }
        }
    }
}
