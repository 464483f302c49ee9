using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>
/// Sequences with seeded q, k and v over a pool of their own, whose blocks are handed out in shuffled order and start as NaN. Steps may cut the sequences
/// as they like; a token's q, k and v depend on its sequence and position only.
/// </summary>
internal sealed unsafe class AttentionCase : IDisposable
{
    private readonly int _seed, _heads, _kvHeads, _headDim, _stride, _blockCount;
    private readonly KvBlockLayout _layout;
    private readonly NativeArray<byte> _pool;
    private readonly int[] _blockTables;
    private readonly int[] _lengths;

    /// <param name="capacities">Positions that each sequence may reach.</param>
    public AttentionCase(int seed, int heads, int kvHeads, int headDim, KvElementType elementType, params int[] capacities)
    {
        (_seed, _heads, _kvHeads, _headDim) = (seed, heads, kvHeads, headDim);
        _layout = new KvBlockLayout(elementType, kvHeads, headDim);
        _stride = capacities.Max(Blocks) + 1;
        _blockCount = capacities.Sum(Blocks) + 2;
        _pool = new NativeArray<byte>(_blockCount * _layout.BlockBytes);
        new Span<byte>(_pool.Pointer, checked((int)_pool.Length)).Fill(0xFF);
        var free = Enumerable.Range(0, _blockCount).ToArray();
        new Random(seed).Shuffle(free);
        _blockTables = new int[capacities.Length * _stride];
        Array.Fill(_blockTables, -1);
        var next = 0;
        for (var s = 0; s < capacities.Length; s++)
        {
            for (var j = 0; j < Blocks(capacities[s]); j++) _blockTables[s * _stride + j] = free[next++];
        }
        _lengths = new int[capacities.Length];
        Rope = new RopeTable(headDim, 500_000, 1, Math.Max(1024, capacities.Max()));
        Limits = new SparseLimits[capacities.Length];
        Tokens = (sequence, position, qkv) => RandomTensor.Floats(new Random(HashCode(_seed, sequence, position)), qkv.Length, 4).CopyTo(qkv);
    }

    /// <summary>Writes [heads + 2 · kvHeads, headDim] of a token.</summary>
    public delegate void TokenSource(int sequence, int position, Span<float> qkv);

    public TokenSource Tokens { get; init; }
    public RopeTable Rope { get; init; }
    /// <summary>[sequences], dense at first.</summary>
    public SparseLimits[] Limits { get; }
    /// <summary>[kvHeads, 128, headDim], or null.</summary>
    public float[]? Gate { get; init; }
    public bool DensePrefill { get; init; }
    /// <summary>What the last step kept.</summary>
    public BlockSelections Selections { get; } = new();

    public Span<byte> Pool => _pool.Span;

    /// <summary>Appends and attends the given numbers of tokens of (sequence, count, flags), and returns [tokens, heads in range, headDim].</summary>
    public float[] Step(CpuKernels kernels, IParallelRunner runner, (int Sequence, int Count, SequenceFlags Flags)[] parts, int kvHeadBegin = 0, int kvHeadEnd = -1)
    {
        if (kvHeadEnd < 0) kvHeadEnd = _kvHeads;
        var tokens = parts.Sum(part => part.Count);
        var rows = _heads + 2 * _kvHeads;
        using var qkv = new NativeArray<float>((nint)tokens * rows * _headDim);
        using var positions = new NativeArray<int>(tokens);
        using var starts = new NativeArray<int>(parts.Length + 1);
        using var flags = new NativeArray<int>(parts.Length);
        using var tables = new NativeArray<int>(parts.Length * _stride);
        using var limits = NativeArray<SparseLimits>.From([.. parts.Select(part => Limits[part.Sequence])]);
        using var gate = NativeArray<float>.From(Gate ?? []);
        using var output = new NativeArray<float>((nint)tokens * (kvHeadEnd - kvHeadBegin) * (_heads / _kvHeads) * _headDim);
        output.Span.Fill(float.NaN);
        using var scratch = new ScratchBuffer();

        var t = 0;
        for (var i = 0; i < parts.Length; i++)
        {
            var (s, count, flag) = parts[i];
            starts.Pointer[i] = t;
            flags.Pointer[i] = (int)flag;
            _blockTables.AsSpan(s * _stride, _stride).CopyTo(tables.Span.Slice(i * _stride, _stride));
            for (var j = 0; j < count; j++, t++)
            {
                var position = _lengths[s] + j;
                positions.Pointer[t] = position;
                Tokens(s, position, qkv.Span.Slice(t * rows * _headDim, rows * _headDim));
            }
            if ((flag & SequenceFlags.Dead) == 0) _lengths[s] += count;
        }
        starts.Pointer[parts.Length] = t;

        Selections.Clear();
        Flagged?.Invoke((nint)flags.Pointer);
        kernels.Attention(new AttentionArguments
        {
            Qkv = qkv.Pointer,
            TokenCount = tokens,
            Positions = positions.Pointer,
            SequenceStarts = starts.Pointer,
            SequenceCount = parts.Length,
            Flags = flags.Pointer,
            BlockTables = tables.Pointer,
            BlockTableStride = _stride,
            Limits = limits.Pointer,
            Gate = Gate is null ? null : gate.Pointer,
            DensePrefill = DensePrefill,
            Selections = Selections,
            Pool = _pool.Pointer,
            PoolBlockCount = _blockCount,
            Layout = _layout,
            Rope = Rope,
            HeadCount = _heads,
            KvHeadCount = _kvHeads,
            HeadDim = _headDim,
            KvHeadBegin = kvHeadBegin,
            KvHeadEnd = kvHeadEnd,
            Output = output.Pointer,
        }, new KernelContext(runner, scratch));
        return output.Span.ToArray();
    }

    /// <summary>Told where the flags of a step lie, before it runs.</summary>
    public Action<nint>? Flagged { get; set; }

    /// <summary>Forgets the tokens of a sequence from a position on, if there is one: the next step brings them again.</summary>
    /// <returns>How many tokens there were.</returns>
    public int Rewind(int sequence, int? length)
    {
        var before = _lengths[sequence];
        _lengths[sequence] = length ?? before;
        return before;
    }

    /// <summary>One step of one sequence.</summary>
    public float[] Step(CpuKernels kernels, IParallelRunner runner, int sequence, int count) => Step(kernels, runner, [(sequence, count, SequenceFlags.None)]);

    public void Dispose() => _pool.Dispose();

    // Unlike System.HashCode the same in every process.
    private static int HashCode(int a, int b, int c) => unchecked((a * 31 + b) * 1_000_003 + c * 7919);

    private static int Blocks(int positions) => (positions + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;
}
