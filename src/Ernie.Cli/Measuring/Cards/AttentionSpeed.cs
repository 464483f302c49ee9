using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>
/// One attention layer of a model's shape over a paged cache on the GPU. Keys and values are those of <see cref="SegmentRecipe"/>, stored by the kernels themselves; every sequence has blocks of its own.
/// </summary>
internal sealed unsafe class AttentionSpeed : IDisposable
{
    private const int FillTokens = 1024;
    private readonly CudaContext _context;
    private readonly ErnieConfig _config;
    private readonly KvBlockLayout _layout;
    private readonly RopeTable _rope;
    private readonly CudaMemory _angles;
    private readonly CudaMemory? _own;
    private readonly byte* _pool;
    private readonly CudaModules _modules;
    private readonly CudaWorkspace _workspace;
    private readonly StreamLauncher _launcher;
    private readonly GpuClock _clock;
    private readonly int _depth, _sequences, _blocks;

    /// <param name="context">Of the GPU.</param>
    /// <param name="config">The model's shape.</param>
    /// <param name="type">Of the cache.</param>
    /// <param name="depth">Tokens of each sequence in the cache, those of a call included.</param>
    /// <param name="sequences">Sequences.</param>
    /// <param name="isTiny">Whether the GPU is an emulated one.</param>
    /// <param name="pool">Device memory of <see cref="PoolBytes"/> to fill and use; 0: memory of its own.</param>
    /// <param name="runs">Repetitions; medians are given.</param>
    public AttentionSpeed(CudaContext context, ErnieConfig config, KvElementType type, int depth, int sequences, bool isTiny, nint pool = 0, int runs = 3)
    {
        (_context, _config, _depth, _sequences) = (context, config, depth, sequences);
        _clock = new GpuClock(context, isTiny, runs);
        _layout = new KvBlockLayout(type, config.KvHeadCount, config.HeadDim);
        _blocks = KvCache.BlocksFor(depth);
        _rope = new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength);
        _rope.Ensure(depth - 1);
        var angles = new float[depth * config.HeadDim];
        for (var p = 0; p < depth; p++) _rope.Row(p).CopyTo(angles.AsSpan(p * config.HeadDim));
        _angles = Sent(angles);
        _own = pool == 0 ? context.Allocate(PoolBytes(config, type, depth, sequences)) : null;
        _pool = (byte*)(_own?.Address ?? pool);
        _modules = new CudaModules(context);
        _workspace = new CudaWorkspace(context);
        _launcher = new StreamLauncher(_modules);
        Fill();
    }

    public static long PoolBytes(ErnieConfig config, KvElementType type, int depth, int sequences) => (long)new KvBlockLayout(type, config.KvHeadCount, config.HeadDim).BlockBytes * KvCache.BlocksFor(depth) * sequences;

    /// <summary>One token of each sequence.</summary>
    public Result Decode(SparseLimits limits)
    {
        using var step = new Step(this, _sequences, 1, _depth - 1, SequenceFlags.Decode, limits);
        CudaSelection selection = default;
        var seconds = _clock.Seconds(_ => selection = step.Launch());
        double kept = _blocks;
        if (selection.DecodeKept != null && !limits.DecodeIsDense(_depth - 1))
        {
            var words = Read(selection.DecodeKept, _sequences * _config.KvHeadCount * selection.Words);
            kept = words.Sum(static word => (double)uint.PopCount(word)) / (_sequences * _config.KvHeadCount);
        }
        double sums = kept < _blocks ? (double)_blocks * _config.KvHeadCount * _config.HeadDim * sizeof(float) : 0;
        return new Result(seconds, _clock.LaunchSeconds, kept, _blocks, _sequences * (kept * _config.KvHeadCount * _layout.ReadBytes + sums) / seconds, 0, kept / _blocks);
    }

    /// <summary>The last tokens of the first sequence.</summary>
    public Result Prefill(int tokens, SparseLimits limits)
    {
        using var step = new Step(this, 1, tokens, _depth - tokens, SequenceFlags.None, limits);
        CudaSelection selection = default;
        var seconds = _clock.Seconds(_ => selection = step.Launch());
        var operations = 4.0 * _config.HeadCount * _config.HeadDim * tokens * (_depth - (tokens - 1) / 2.0);
        return new Result(seconds, _clock.LaunchSeconds, _blocks, _blocks, 0, operations / seconds, Share(selection, limits));
    }

    public void Dispose()
    {
        _angles.Dispose();
        _own?.Dispose();
        _workspace.Dispose();
        _modules.Dispose();
        _clock.Dispose();
    }

    /// <summary>Blocks of a sequence; neighbours do not lie side by side.</summary>
    public int[] Table(int sequence) => [.. Enumerable.Range(0, _blocks).Select(j => sequence * _blocks + (int)((long)j * 7919 % _blocks))];

    /// <summary>Blocks that packs and heads keep, over those that they would read densely.</summary>
    private double Share(in CudaSelection selection, SparseLimits limits)
    {
        if (selection.PrefillKept == null) return 1;
        var (heads, words) = (_config.HeadCount, selection.Words);
        var packs = Read((uint*)selection.Packs, 4 * selection.PrefillCount); // sequence, first token, tokens, block
        var kept = Read(selection.PrefillKept, selection.PrefillCount * heads * words);
        double read = 0, all = 0;
        for (var pack = 0; pack < selection.PrefillCount; pack++)
        {
            var (tokens, block) = ((int)packs[4 * pack + 2], (int)packs[4 * pack + 3]);
            if (tokens == 0) continue;
            var dense = (double)tokens * heads * (block + 1);
            all += dense;
            read += limits.PrefillIsDense(block) ? dense : tokens * kept.Skip(pack * heads * words).Take(heads * words).Sum(static word => (double)uint.PopCount(word));
        }
        return all == 0 ? 1 : read / all;
    }

    private uint[] Read(uint* device, int count)
    {
        var words = new uint[count];
        fixed (uint* to = words)
        {
            _context.Enter();
            _context.Driver.Check(_context.Driver.MemcpyDtoHAsync(to, (nint)device, (nuint)count * sizeof(uint), _clock.Stream.Handle), "cuMemcpyDtoHAsync");
            _clock.Stream.Synchronize();
        }
        return words;
    }

    private void Fill()
    {
        for (var first = 0; first < _depth; first += FillTokens)
        {
            using var step = new Step(this, 1, Math.Min(FillTokens, _depth - first), first, SequenceFlags.None, SparseLimits.Dense with { EncoderTopKLeft = 1, EncoderTopKRight = 1, EncoderLimit = 128 }, headsOfKvHead: 1);
            step.Launch();
            _clock.Stream.Synchronize();
        }
        var bytes = (nint)_blocks * _layout.BlockBytes;
        _context.Enter();
        for (var s = 1; s < _sequences; s++) _context.Driver.Check(_context.Driver.MemcpyDtoDAsync((nint)_pool + s * bytes, (nint)_pool, (nuint)bytes, _clock.Stream.Handle), "cuMemcpyDtoDAsync");
        _clock.Stream.Synchronize();
    }

    private CudaMemory Sent<T>(ReadOnlySpan<T> values) where T : unmanaged
    {
        var memory = _context.Allocate((long)values.Length * sizeof(T));
        fixed (T* from = values)
        {
            memory.CopyFrom(from, memory.Bytes, 0, _clock.Stream);
            _clock.Stream.Synchronize();
        }
        return memory;
    }

    private CudaMemory Sent<T>(T[] values) where T : unmanaged => Sent<T>(values.AsSpan());

    /// <summary>What one call is given.</summary>
    private sealed class Step : IDisposable
    {
        private readonly AttentionSpeed _layer;
        private readonly AttentionArguments _arguments;
        private readonly List<CudaMemory> _memory = [];

        public Step(AttentionSpeed layer, int sequences, int tokens, int position, SequenceFlags flags, SparseLimits limits, int? headsOfKvHead = null)
        {
            _layer = layer;
            var config = layer._config;
            var heads = headsOfKvHead * config.KvHeadCount ?? config.HeadCount;
            var recipe = new SegmentRecipe(heads, config.KvHeadCount, config.HeadDim, 1);
            var size = (heads + 2 * config.KvHeadCount) * config.HeadDim;
            var qkv = new float[sequences * tokens * size];
            Parallel.For(0, tokens, t => recipe.Token(position + t, qkv.AsSpan(t * size, size)));
            for (var s = 1; s < sequences; s++) qkv.AsSpan(0, tokens * size).CopyTo(qkv.AsSpan(s * tokens * size));
            var all = sequences * tokens;
            _arguments = new AttentionArguments
            {
                Qkv = (float*)Keep(layer.Sent(qkv)), TokenCount = all,
                Positions = (int*)Keep(layer.Sent<int>([.. Enumerable.Range(0, all).Select(i => position + i % tokens)])),
                SequenceStarts = (int*)Keep(layer.Sent<int>([.. Enumerable.Range(0, sequences + 1).Select(s => s * tokens)])), SequenceCount = sequences,
                Flags = (int*)Keep(layer.Sent<int>([.. Enumerable.Repeat((int)flags, sequences)])),
                BlockTables = (int*)Keep(layer.Sent<int>([.. Enumerable.Range(0, sequences).SelectMany(layer.Table)])), BlockTableStride = layer._blocks,
                Limits = limits == SparseLimits.Dense ? null : (SparseLimits*)Keep(layer.Sent<SparseLimits>([.. Enumerable.Repeat(limits, sequences)])),
                Pool = layer._pool, PoolBlockCount = layer._sequences * layer._blocks, Layout = layer._layout, Rope = layer._rope,
                HeadCount = heads, KvHeadCount = config.KvHeadCount, HeadDim = config.HeadDim, KvHeadEnd = config.KvHeadCount,
                Output = (float*)Keep(layer._context.Allocate((long)all * heads * config.HeadDim * sizeof(float))),
            };
        }

        public CudaSelection Launch()
        {
            _layer._context.Enter();
            _layer._launcher.Begin(_layer._clock.Stream.Handle, _layer._workspace);
            return new CudaLaunches(_layer._launcher).Attention(_arguments, (float*)_layer._angles.Address);
        }

        public void Dispose() => _memory.ForEach(static memory => memory.Dispose());

        private nint Keep(CudaMemory memory)
        {
            _memory.Add(memory);
            return memory.Address;
        }
    }

    /// <param name="Seconds">Of a call.</param>
    /// <param name="LaunchSeconds">What the CPU took to ask for it.</param>
    /// <param name="KeptBlocks">Blocks that a KV head reads, on average.</param>
    /// <param name="Blocks">Blocks that there are of a sequence.</param>
    /// <param name="BytesPerSecond">Decode: keys and values that are read, and the summaries that they are selected by.</param>
    /// <param name="OperationsPerSecond">Prefill: multiplications and additions of dense attention.</param>
    /// <param name="KeptShare">Blocks that are read, over those that dense attention reads.</param>
    public readonly record struct Result(double Seconds, double LaunchSeconds, double KeptBlocks, int Blocks, double BytesPerSecond, double OperationsPerSecond, double KeptShare);
}
