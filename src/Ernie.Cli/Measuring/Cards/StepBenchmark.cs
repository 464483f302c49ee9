using System.Diagnostics;
using Ernie.Sdk;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>
/// Times steps of an exported model on the GPU by the clock on the wall, from the call to its end, without the choice of tokens. The cache is filled with <see cref="SegmentRecipe"/>, not prefilled,
/// and queries are the recipe's too: a model of random weights would ask for every block.
/// </summary>
internal sealed unsafe class StepBenchmark : IDisposable
{
    private const int WarmUp = 3, Chunk = 2048;
    private readonly CudaContext _context;
    private readonly CudaStream _stream;
    private readonly KvElementType _kvType;
    private readonly bool _isTiny;
    private readonly CudaMemory _rows;
    private readonly ModelRunner _runner;
    private readonly Random _random = new(7);

    /// <param name="installation">Where CUDA is.</param>
    /// <param name="folder">Of the export.</param>
    /// <param name="kvType">Of the cache.</param>
    /// <param name="blocks">Blocks of the cache, as far as there is memory for them.</param>
    /// <param name="sequences">Of a step, at most.</param>
    /// <param name="isTiny">Whether the GPU is an emulated one.</param>
    /// <param name="graphs">Whether decode steps can be captured as CUDA graphs.</param>
    /// <param name="overlaps">Whether kernels may begin while the ones before them end.</param>
    /// <param name="cancellationToken">Ends loading.</param>
    public StepBenchmark(CudaInstallation installation, string folder, ErnieKvCacheType kvType, int blocks, int sequences, bool isTiny, bool graphs, bool overlaps, CancellationToken cancellationToken)
    {
        (_kvType, _isTiny) = (ErnieModel.KvTypeOf(kvType), isTiny);
        Manifest = ModelManifest.Read(folder);
        var gpu = DeviceChoice.Resolve(folder, new ErnieModelOptions { Device = ErnieDevice.Cuda, KvCacheType = kvType, PrefillChunkTokens = Chunk, MaxConcurrentRequests = sequences }, installation, null)!;
        var ofBlock = new KvBlockLayout(_kvType, Manifest.Config.KvHeadCount, Manifest.Config.HeadDim).BlockBytes * (long)Manifest.Config.LayerCount;
        // What the provider and the workspace take beside the plan's estimate is what is to be found out.
        Blocks = (int)Math.Min(blocks, gpu.CacheBytes / 10 * 9 / ofBlock);
        _context = gpu.Devices[0].Retain();
        _stream = _context.CreateStream();
        _rows = _context.Allocate(CardRecipeKernels.Bytes(Manifest.Config, Math.Max(Chunk, sequences)));
        try
        {
            var threads = Math.Min(8, Environment.ProcessorCount);
            _runner = new ModelRunner(folder, Manifest, _kvType, Blocks, threads,
                model => [new GpuDevice(gpu, 0, model, KernelRegistry.Choose(), threads, graphs, overlaps, _ => cancellationToken.ThrowIfCancellationRequested(), kernels => new CardRecipeKernels(kernels, _rows))]);
        }
        catch
        {
            Release();
            throw;
        }
        for (var block = 0; block < Blocks; block++) _runner.Cache.Allocate();
    }

    public ModelManifest Manifest { get; }
    /// <summary>Blocks of the cache.</summary>
    public int Blocks { get; }
    public long FreeBytes => _context.FreeBytes();

    /// <summary>Whether decode steps are captured still.</summary>
    public bool UsesGraphs => _runner.UsesGraphs;

    /// <summary>Decode steps of sequences at a depth, in some ways one after another.</summary>
    public StepTime[] Decode(int sequences, int depth, int steps, CancellationToken cancellationToken, params (SparseLimits Limits, bool Graphs)[] ways)
    {
        using var layer = Fill(sequences, depth);
        CardRecipeKernels.Fill(_rows, _stream, Manifest.Config, sequences, 1, depth - 1);
        int[][] tables = [.. Enumerable.Range(0, sequences).Select(layer.Table)];
        var batch = new StepBatch();
        return [.. ways.Select(way =>
        {
            _runner.AllowsGraphs = way.Graphs;
            var kept = way.Limits.DecodeIsDense(depth - 1) ? KvCache.BlocksFor(depth) : layer.Decode(way.Limits).KeptBlocks;
            return new StepTime(Median(steps, () =>
            {
                batch.Clear();
                for (var s = 0; s < sequences; s++) batch.Add([_random.Next(Manifest.Config.VocabSize)], depth - 1, tables[s], SequenceFlags.Decode, way.Limits, 1);
                return batch;
            }, cancellationToken), kept, kept / KvCache.BlocksFor(depth));
        })];
    }

    /// <summary>Steps that compute the last tokens of a prompt of so many, after each of some limits.</summary>
    public StepTime[] Prefill(int tokens, int depth, int steps, CancellationToken cancellationToken, params SparseLimits[] limits)
    {
        using var layer = Fill(1, depth);
        CardRecipeKernels.Fill(_rows, _stream, Manifest.Config, 1, tokens, depth - tokens);
        var table = layer.Table(0);
        var batch = new StepBatch();
        return [.. limits.Select(each =>
        {
            var share = each == SparseLimits.Dense ? 1 : layer.Prefill(tokens, each).KeptShare;
            return new StepTime(Median(steps, () =>
            {
                batch.Clear();
                batch.Add([.. Enumerable.Range(0, tokens).Select(_ => _random.Next(Manifest.Config.VocabSize))], depth - tokens, table, SequenceFlags.None, each, 1);
                return batch;
            }, cancellationToken), share * KvCache.BlocksFor(depth), share);
        })];
    }

    public void Dispose()
    {
        _runner.Dispose();
        Release();
    }

    private void Release()
    {
        _rows.Dispose();
        _stream.Dispose();
        _context.Dispose();
    }

    private double Median(int steps, Func<StepBatch> next, CancellationToken cancellationToken)
    {
        var seconds = new List<double>();
        for (var step = _isTiny ? WarmUp : 0; step < WarmUp + steps; step++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var batch = next();
            var start = Stopwatch.GetTimestamp();
            _runner.Run(batch, null, []);
            _runner.Wait();
            if (step >= WarmUp) seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return seconds.Order().ElementAt(seconds.Count / 2);
    }

    /// <summary>Stores keys and values of all sequences in the first layer, and copies it to the others.</summary>
    /// <returns>The first layer.</returns>
    private AttentionSpeed Fill(int sequences, int depth)
    {
        var config = Manifest.Config;
        var layer = new AttentionSpeed(_context, config, _kvType, depth, sequences, _isTiny, (nint)_runner.Cache.Layer(0));
        var bytes = (nuint)AttentionSpeed.PoolBytes(config, _kvType, depth, sequences);
        _context.Enter();
        for (var other = 1; other < config.LayerCount; other++)
            _context.Driver.Check(_context.Driver.MemcpyDtoDAsync((nint)_runner.Cache.Layer(other), (nint)_runner.Cache.Layer(0), bytes, _stream.Handle), "cuMemcpyDtoDAsync");
        _stream.Synchronize();
        return layer;
    }

    /// <param name="Seconds">Median of some steps.</param>
    /// <param name="KeptBlocks">Blocks that a KV head reads, on average.</param>
    /// <param name="KeptShare">Of those that dense attention reads.</param>
    public readonly record struct StepTime(double Seconds, double KeptBlocks, double KeptShare);
}
