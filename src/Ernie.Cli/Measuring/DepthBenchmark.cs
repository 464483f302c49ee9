using System.Diagnostics;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring;

internal sealed record DepthBenchmarkPlan
{
    /// <summary>An exported model.</summary>
    public required string Model { get; init; }
    /// <summary>Tokens in the cache, the one that is decoded included.</summary>
    public required IReadOnlyList<int> Depths { get; init; }
    public required SparseLimits Limits { get; init; }
    public required KvElementType KvType { get; init; }
    public ErnieKvCacheType CacheType => KvType switch { KvElementType.BFloat16 => ErnieKvCacheType.BFloat16, KvElementType.Int8 => ErnieKvCacheType.Int8, _ => ErnieKvCacheType.Float32 };
    public required int Threads { get; init; }
    public required int Runs { get; init; }
    /// <summary>Decode steps of the model in a run; 0: single layers only.</summary>
    public required int Steps { get; init; }
    public required CpuKernels Kernels { get; init; }
    /// <summary>Where CUDA is, if a GPU computes.</summary>
    public CudaInstallation? Installation { get; init; }
}

/// <summary>What <see cref="DepthBenchmark"/> found. Rates are per second, sizes in bytes, times in seconds.</summary>
internal sealed record DepthBenchmarkResult
{
    public required string Model { get; init; }
    public required string Kernels { get; init; }
    public required string KvType { get; init; }
    public required int Threads { get; init; }
    public required int LayerCount { get; init; }
    public required MachineDescription Machine { get; init; }
    /// <summary>The GPU; null: the CPU computed.</summary>
    public string? Card { get; init; }
    public required IReadOnlyList<DepthResult> Depths { get; init; }
}

/// <param name="Depth">Tokens in the cache.</param>
/// <param name="Blocks">Blocks that hold them.</param>
/// <param name="KeptBlocks">Blocks that a KV head keeps in decode, on average.</param>
/// <param name="DecodeSeconds">Attention of one token, one layer.</param>
/// <param name="DecodeBytes">Kept keys and values, and the summaries of all blocks.</param>
/// <param name="ReadProbe">What all threads read from memory before and after; on a GPU what the card copies, reading and writing.</param>
/// <param name="KeptShare">Prefill: kept blocks over blocks that dense attention reads.</param>
/// <param name="PrefillTokens">Tokens of the last chunk.</param>
/// <param name="DenseSeconds">Its attention over all blocks, one layer.</param>
/// <param name="SparseSeconds">Over kept blocks, their selection included.</param>
/// <param name="FloatProbe">Multiplications and additions before and after; null on a GPU.</param>
/// <param name="DenseOperations">Multiplications and additions of the dense chunk.</param>
/// <param name="StepSeconds">A decode step of the whole model; null where it was not measured.</param>
internal sealed record DepthResult(int Depth, int Blocks, double KeptBlocks, double DecodeSeconds, double DecodeBytes, double ReadProbe, double KeptShare, int PrefillTokens, double DenseSeconds, double SparseSeconds,
    double? FloatProbe, double DenseOperations, double? StepSeconds)
{
    public double BytesPerSecond => DecodeBytes / DecodeSeconds;
    public double Speedup => DenseSeconds / SparseSeconds;
}

/// <summary>Times attention, and decode steps of a model, over caches that are filled instead of prefilled.</summary>
internal sealed class DepthBenchmark(DepthBenchmarkPlan plan, Action<string> say)
{
    private const int ChunkTokens = 1024;
    private const long RotatingBytes = 384L << 20;
    /// <summary>Least time of a measurement of decode.</summary>
    private const double LeastSeconds = 0.3;
    private readonly TaskRunner _runner = new(plan.Threads);

    public DepthBenchmarkResult Run(CancellationToken cancellationToken)
    {
        var manifest = ModelManifest.Read(plan.Model);
        var results = new List<DepthResult>();
        using var bandwidth = new ReadBandwidthProbe(_runner);
        using var pool = new OrtPool(plan.Threads);
        foreach (var depth in plan.Depths)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var result = Layer(manifest, depth, bandwidth, pool, cancellationToken);
            if (plan.Steps > 0) result = result with { StepSeconds = Step(manifest, depth, cancellationToken) };
            results.Add(result);
        }
        return new DepthBenchmarkResult
        {
            Model = manifest.Name, Kernels = plan.Kernels.Name, KvType = plan.KvType.ToString(), Threads = plan.Threads, LayerCount = manifest.Config.LayerCount, Machine = MachineDescription.Current, Depths = results,
        };
    }

    private DepthResult Layer(ModelManifest manifest, int depth, ReadBandwidthProbe bandwidth, OrtPool pool, CancellationToken cancellationToken)
    {
        var config = manifest.Config;
        say($"fill {depth} tokens of one layer");
        using var layer = new AttentionLayer(config, plan.KvType, depth, Math.Min(ChunkTokens, depth), RotatingBytes, plan.Kernels, _runner);
        var blocks = KvCache.BlocksFor(depth);

        var selections = new BlockSelections();
        pool.Run(context => layer.Run(1, plan.Limits, context, selections));
        var kept = selections.Items.Count == 0 ? blocks : selections.Items.Average(static s => s.Blocks.Length);
        double sums = selections.Items.Count == 0 ? 0 : (double)blocks * config.KvHeadCount * config.HeadDim * sizeof(float);
        var bytes = kept * config.KvHeadCount * layer.Layout.ReadBytes + sums;
        var calls = Calls(() => layer.Run(1, plan.Limits, Context!.Value));
        var decodes = new List<(double Seconds, double Probe)>();
        for (var run = 0; run < plan.Runs; run++)
        {
            say($"run {run + 1} of {plan.Runs}: decode after {depth - 1} tokens, one layer");
            var probe = bandwidth.Measure();
            var times = new double[calls];
            Seconds(pool, () =>
            {
                for (var call = 0; call < calls; call++)
                {
                    var start = Stopwatch.GetTimestamp();
                    layer.Run(1, plan.Limits, Context!.Value);
                    times[call] = Stopwatch.GetElapsedTime(start).TotalSeconds;
                }
            });
            decodes.Add((Median.Of(times), (probe + bandwidth.Measure()) / 2));
        }
        // The run nearest to its probe stands for all: neighbours on the machine come and go.
        var decode = decodes.OrderBy(static d => d.Seconds * d.Probe).ElementAt((decodes.Count - 1) / 2);

        selections.Clear();
        cancellationToken.ThrowIfCancellationRequested();
        say($"prefill of the last {layer.MostTokens} of {depth} tokens, one layer");
        pool.Run(context => layer.Run(layer.MostTokens, plan.Limits, context, selections));
        var share = Share(selections, depth, layer.MostTokens, config.HeadCount);
        var arithmetic = new ArithmeticProbe(_runner);
        var before = arithmetic.MeasureFloat();
        var dense = new List<double>();
        var sparse = new List<double>();
        for (var run = 0; run < Math.Min(plan.Runs, depth > 32768 ? 1 : plan.Runs); run++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            sparse.Add(Seconds(pool, () => layer.Run(layer.MostTokens, plan.Limits, Context!.Value)));
            dense.Add(Seconds(pool, () => layer.Run(layer.MostTokens, SparseLimits.Dense, Context!.Value)));
            sparse.Add(Seconds(pool, () => layer.Run(layer.MostTokens, plan.Limits, Context!.Value)));
        }
        var operations = 4.0 * config.HeadCount * config.HeadDim * layer.MostTokens * (depth - (layer.MostTokens - 1) / 2.0);
        return new DepthResult(depth, blocks, kept, decode.Seconds, bytes, decode.Probe, share, layer.MostTokens, Median.Of(dense), sparse.Average(), (before + arithmetic.MeasureFloat()) / 2, operations, null);

        int Calls(Action once)
        {
            Seconds(pool, once);
            return (int)Math.Clamp(LeastSeconds / Seconds(pool, once), 3, 2000);
        }
    }

    /// <summary>Set while work runs on the pool.</summary>
    private KernelContext? Context { get; set; }

    private double Seconds(OrtPool pool, Action work)
    {
        double seconds = 0;
        pool.Run(context =>
        {
            Context = context;
            var start = Stopwatch.GetTimestamp();
            work();
            seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        });
        return seconds;
    }

    /// <summary>Blocks that packs and heads keep, over those that they would read densely.</summary>
    private static double Share(BlockSelections selections, int depth, int tokens, int heads)
    {
        double kept = 0, all = 0;
        var byToken = selections.Items.ToLookup(static s => s.FirstToken);
        for (int position = depth - tokens, count; position < depth; position += count)
        {
            count = Math.Min(depth - position, KvBlockLayout.BlockSize - position % KvBlockLayout.BlockSize);
            var candidates = position / KvBlockLayout.BlockSize + 1;
            var chosen = byToken[position - (depth - tokens)].ToArray();
            kept += count * (chosen.Length == 0 ? (double)heads * candidates : chosen.Sum(static s => s.Blocks.Length));
            all += count * (double)heads * candidates;
        }
        return kept / all;
    }

    /// <summary>Median time of a decode step of the whole model at that depth.</summary>
    private unsafe double Step(ModelManifest manifest, int depth, CancellationToken cancellationToken)
    {
        var config = manifest.Config;
        var blocks = KvCache.BlocksFor(depth);
        say($"fill {depth} tokens of {config.LayerCount} layers");
        using var runner = new ModelRunner(plan.Model, manifest, plan.KvType, blocks, plan.Threads, new RecipeKernels(plan.Kernels, config));
        int[] table = [.. Enumerable.Range(0, blocks).Select(_ => runner.Cache.Allocate())];
        var layout = runner.Cache.Layout;
        AttentionLayer.Fill(config, plan.Kernels, _runner, layout, new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength), runner.Cache.Layer(0), table, depth);
        for (var layer = 1; layer < config.LayerCount; layer++)
        {
            var target = layer;
            _runner.For(blocks, j => Buffer.MemoryCopy(runner.Cache.Layer(0) + table[j] * layout.BlockBytes, runner.Cache.Layer(target) + table[j] * layout.BlockBytes, layout.BlockBytes, layout.BlockBytes));
        }
        var random = new Random(7);
        var batch = new StepBatch();
        var times = new List<double>();
        var warmUp = 2 + plan.Steps;
        for (var step = 0; step < warmUp + plan.Steps; step++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            say($"decode step {step + 1} after {depth - 1} tokens");
            batch.Clear();
            batch.Add([random.Next(config.VocabSize)], depth - 1, table, SequenceFlags.Decode, plan.Limits, 1);
            var start = Stopwatch.GetTimestamp();
            runner.Run(batch);
            // The first ones compile, and touch pages of experts that the process has not mapped yet: a fault for every 4 KB.
            if (step >= warmUp) times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return Median.Of(times);
    }
}
