using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Benchmarks;

/// <summary>One sequence of a 21B-A3B layer over a bfloat16 cache; calls rotate over the layers' pools, so that no cache holds the next call's keys and values.</summary>
internal sealed unsafe class AttentionBenchmark : IDisposable
{
    private const int Heads = 20, KvHeads = 4, HeadDim = 128, MaxTokens = 512, Rows = Heads + 2 * KvHeads;
    private readonly IParallelRunner _runner;
    private readonly int _length, _blocks, _layers;
    private readonly KvBlockLayout _layout = new(KvElementType.BFloat16, KvHeads, HeadDim);
    private readonly RopeTable _rope = new(HeadDim, 500_000, 1, 131_072);
    private readonly NativeMemoryBlock _pools, _qkv, _output, _expected, _integers;
    private readonly ScratchBuffer _scratch = new();
    private int _next;

    public AttentionBenchmark(IParallelRunner runner, int length)
    {
        _runner = runner;
        _length = length;
        _blocks = (length + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;
        _layers = (int)Math.Max(2, (400L << 20) / (_blocks * _layout.BlockBytes));
        _pools = new NativeMemoryBlock(_layers * _blocks * _layout.BlockBytes).FillBFloat16(9, 1, runner);
        _qkv = new NativeMemoryBlock((nint)MaxTokens * Rows * HeadDim * 4).FillFloat(10, 2, runner);
        _output = new NativeMemoryBlock((nint)MaxTokens * Heads * HeadDim * 4);
        _expected = new NativeMemoryBlock((nint)MaxTokens * Heads * HeadDim * 4);
        // positions, starts, flags, block table
        _integers = new NativeMemoryBlock((MaxTokens + 3 + _blocks) * 4);
    }

    /// <summary>Keys and values of all positions.</summary>
    public double Bytes => 2.0 * _length * KvHeads * HeadDim * 2;

    /// <summary>Products of the last <paramref name="tokens"/> tokens with the positions they see.</summary>
    public double FlopsOf(int tokens) => 4.0 * Heads * HeadDim * tokens * (_length - (tokens - 1) / 2.0);

    public void Next(CpuKernels kernels)
    {
        _next = (_next + 1) % _layers;
        Run(kernels, _next, 1, _output.Floats);
    }

    public void Many(CpuKernels kernels, int tokens) => Run(kernels, 0, tokens, _output.Floats);

    public double Check(CpuKernels kernels)
    {
        Run(KernelRegistry.Choose("reference"), 0, 1, _expected.Floats);
        Run(kernels, 0, 1, _output.Floats);
        return Deviation.Checked(new ReadOnlySpan<float>(_expected.Floats, Heads * HeadDim), new ReadOnlySpan<float>(_output.Floats, Heads * HeadDim), 2e-3);
    }

    /// <summary>Checks sixteen tokens; the reference would need minutes for a whole prefill.</summary>
    public double CheckMany(CpuKernels kernels)
    {
        const int tokens = 16;
        Run(KernelRegistry.Choose("reference"), 0, tokens, _expected.Floats);
        Run(kernels, 0, tokens, _output.Floats);
        return Deviation.Checked(new ReadOnlySpan<float>(_expected.Floats, tokens * Heads * HeadDim), new ReadOnlySpan<float>(_output.Floats, tokens * Heads * HeadDim), 2e-3);
    }

    /// <summary>The last tokens of the sequence.</summary>
    private void Run(CpuKernels kernels, int layer, int tokens, float* output)
    {
        var integers = (int*)_integers.Pointer;
        int* positions = integers, starts = integers + MaxTokens, flags = starts + 2, table = flags + 1;
        for (var t = 0; t < tokens; t++) positions[t] = _length - tokens + t;
        (starts[0], starts[1], flags[0]) = (0, tokens, tokens == 1 ? (int)SequenceFlags.Decode : 0);
        // Neighbours in the sequence do not lie side by side in the pool.
        for (var j = 0; j < _blocks; j++) table[j] = (int)((long)j * 7919 % _blocks);
        kernels.Attention(new AttentionArguments
        {
            Qkv = _qkv.Floats,
            TokenCount = tokens,
            Positions = positions,
            SequenceStarts = starts,
            SequenceCount = 1,
            Flags = flags,
            BlockTables = table,
            BlockTableStride = _blocks,
            Pool = _pools.Pointer + layer * _blocks * _layout.BlockBytes,
            PoolBlockCount = _blocks,
            Layout = _layout,
            Rope = _rope,
            HeadCount = Heads,
            KvHeadCount = KvHeads,
            HeadDim = HeadDim,
            KvHeadEnd = KvHeads,
            Output = output,
        }, new KernelContext(_runner, _scratch));
    }

    public void Dispose()
    {
        foreach (var block in new[] { _pools, _qkv, _output, _expected, _integers }) block.Dispose();
        _scratch.Dispose();
    }
}
