using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>
/// One attention layer over a cache of a certain depth. Its keys and values are drawn by <see cref="SegmentRecipe"/> and stored by the kernels themselves; calls rotate over copies, so that no processor cache
/// holds the next call's.
/// </summary>
internal sealed unsafe class AttentionLayer : IDisposable
{
    private const int FillTokens = 1024;
    private readonly ErnieConfig _config;
    private readonly CpuKernels _kernels;
    private readonly KvBlockLayout _layout;
    private readonly RopeTable _rope;
    private readonly SegmentRecipe _recipe;
    private readonly int _depth, _blocks, _copies;
    private readonly NativeMemoryBlock _pools, _qkv, _output;
    private int _next;

    /// <param name="config">Its sizes are those of the layer.</param>
    /// <param name="kvType">Of the cache.</param>
    /// <param name="depth">Tokens, those of a call included.</param>
    /// <param name="mostTokens">Tokens of a call at most.</param>
    /// <param name="rotatingBytes">Least bytes of all copies together.</param>
    /// <param name="kernels">What computes.</param>
    /// <param name="runner">Threads for filling.</param>
    public AttentionLayer(ErnieConfig config, KvElementType kvType, int depth, int mostTokens, long rotatingBytes, CpuKernels kernels, IParallelRunner runner)
    {
        (_config, _kernels, _depth) = (config, kernels, depth);
        _layout = new KvBlockLayout(kvType, config.KvHeadCount, config.HeadDim);
        _rope = new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength);
        _recipe = RecipeOf(config);
        _blocks = Blocks(depth);
        var bytes = _blocks * _layout.BlockBytes;
        _copies = (int)Math.Max(1, (rotatingBytes + bytes - 1) / bytes);
        _pools = new NativeMemoryBlock(_copies * bytes);
        _qkv = new NativeMemoryBlock((nint)mostTokens * config.QkvSize * sizeof(float));
        _output = new NativeMemoryBlock((nint)mostTokens * config.HeadCount * config.HeadDim * sizeof(float));
        Fill(config, kernels, runner, _layout, _rope, _pools.Pointer, Table(), depth);
        for (var copy = 1; copy < _copies; copy++) Buffer.MemoryCopy(_pools.Pointer, _pools.Pointer + copy * bytes, bytes, bytes);
        // The queries, keys and values of the last tokens.
        runner.For(mostTokens, t => _recipe.Token(depth - mostTokens + t, new Span<float>(_qkv.Floats + (nint)t * config.QkvSize, config.QkvSize)));
        MostTokens = mostTokens;
    }

    public int MostTokens { get; }
    public KvBlockLayout Layout => _layout;
    /// <summary>Output of the last call.</summary>
    public ReadOnlySpan<float> Output(int tokens) => new(_output.Pointer, tokens * _config.HeadCount * _config.HeadDim);

    public static SegmentRecipe RecipeOf(ErnieConfig config) => new(config.HeadCount, config.KvHeadCount, config.HeadDim, 1);

    /// <summary>Attention of the last tokens, over the next copy.</summary>
    public void Run(int tokens, SparseLimits limits, in KernelContext context, BlockSelections? selections = null)
    {
        _next = (_next + 1) % _copies;
        Call(_config, _kernels, context, _layout, _rope, _pools.Pointer + (nint)_next * _blocks * _layout.BlockBytes, Table(), _config.HeadCount, _qkv.Floats + (nint)(MostTokens - tokens) * _config.QkvSize,
            _depth - tokens, tokens, tokens == 1 ? SequenceFlags.Decode : SequenceFlags.None, limits, selections, _output.Floats);
    }

    public void Dispose()
    {
        _pools.Dispose();
        _qkv.Dispose();
        _output.Dispose();
    }

    /// <summary>Stores the keys and values of positions 0 .. <paramref name="tokens"/> - 1.</summary>
    /// <remarks>One query head for each KV head and the tightest limits: attention itself has then little to do.</remarks>
    public static void Fill(ErnieConfig config, CpuKernels kernels, IParallelRunner runner, KvBlockLayout layout, RopeTable rope, byte* pool, int[] table, int tokens)
    {
        var (kvHeads, headDim, recipe) = (config.KvHeadCount, config.HeadDim, RecipeOf(config));
        var size = 3 * kvHeads * headDim;
        using var qkv = new NativeMemoryBlock((nint)FillTokens * size * sizeof(float));
        using var output = new NativeMemoryBlock((nint)FillTokens * kvHeads * headDim * sizeof(float));
        using var scratch = new ScratchBuffer();
        for (var first = 0; first < tokens; first += FillTokens)
        {
            var (start, count) = (first, Math.Min(FillTokens, tokens - first));
            runner.For(count, t =>
            {
                var row = new Span<float>(qkv.Floats + (nint)t * size, size);
                row[..(kvHeads * headDim)].Clear();
                for (var h = 0; h < kvHeads; h++)
                {
                    // Any query will do, but equal scores would keep every block.
                    recipe.Key(h, start + t, row.Slice(h * headDim, headDim));
                    recipe.Key(h, start + t, row.Slice((kvHeads + h) * headDim, headDim));
                    recipe.Value(h, start + t, row.Slice((2 * kvHeads + h) * headDim, headDim));
                }
            });
            Call(config, kernels, new KernelContext(runner, scratch), layout, rope, pool, table, kvHeads, qkv.Floats, start, count, SequenceFlags.None, new SparseLimits(1, 1, 128, 1, 1, 128), null, output.Floats);
        }
    }

    private static void Call(ErnieConfig config, CpuKernels kernels, in KernelContext context, KvBlockLayout layout, RopeTable rope, byte* pool, int[] table, int heads, float* qkv, int position, int tokens,
        SequenceFlags flags, SparseLimits limits, BlockSelections? selections, float* output)
    {
        int[] positions = [.. Enumerable.Range(position, tokens)], starts = [0, tokens], sequenceFlags = [(int)flags];
        fixed (int* p = positions, s = starts, f = sequenceFlags, t = table)
        {
            kernels.Attention(new AttentionArguments
            {
                Qkv = qkv, TokenCount = tokens, Positions = p, SequenceStarts = s, SequenceCount = 1, Flags = f, BlockTables = t, BlockTableStride = table.Length, Limits = &limits, Selections = selections,
                Pool = pool, PoolBlockCount = table.Max() + 1, Layout = layout, Rope = rope, HeadCount = heads, KvHeadCount = config.KvHeadCount, HeadDim = config.HeadDim, KvHeadEnd = config.KvHeadCount, Output = output,
            }, context);
        }
    }

    /// <summary>Neighbours in the sequence do not lie side by side in the pool.</summary>
    private int[] Table() => [.. Enumerable.Range(0, _blocks).Select(j => (int)((long)j * 7919 % _blocks))];

    private static int Blocks(int tokens) => (tokens + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;
}
