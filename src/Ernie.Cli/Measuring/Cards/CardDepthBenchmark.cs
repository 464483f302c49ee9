using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>As <see cref="DepthBenchmark"/>, on a GPU.</summary>
internal sealed class CardDepthBenchmark(DepthBenchmarkPlan plan, CudaInstallation installation, Action<string> say)
{
    private const int ChunkTokens = 1024;

    public DepthBenchmarkResult Run(CancellationToken cancellationToken)
    {
        var manifest = ModelManifest.Read(plan.Model);
        var results = new List<DepthResult>();
        using var context = installation.Gpu().Retain();
        foreach (var depth in plan.Depths)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var result = Layer(manifest, context, depth, cancellationToken);
            if (plan.Steps > 0) result = result with { StepSeconds = Step(manifest, depth, cancellationToken) };
            results.Add(result);
        }
        return new DepthBenchmarkResult
        {
            Model = manifest.Name, Kernels = "cuda", KvType = plan.KvType.ToString(), Threads = plan.Threads, LayerCount = manifest.Config.LayerCount, Machine = MachineDescription.Current,
            Card = CudaInstallation.Describe(context.Device), Depths = results,
        };
    }

    private DepthResult Layer(ModelManifest manifest, CudaContext context, int depth, CancellationToken cancellationToken)
    {
        var config = manifest.Config;
        say($"fill {depth} tokens of one layer");
        using var layer = new AttentionSpeed(context, config, plan.KvType, depth, 1, isTiny: false, runs: plan.Runs);
        using var copies = new CardCopyProbe(installation);
        say($"decode after {depth - 1} tokens, one layer");
        var before = copies.Measure();
        var decode = layer.Decode(plan.Limits);
        var probe = (before + copies.Measure()) / 2;
        cancellationToken.ThrowIfCancellationRequested();
        var tokens = Math.Min(ChunkTokens, depth);
        say($"prefill of the last {tokens} of {depth} tokens, one layer");
        var sparse = layer.Prefill(tokens, plan.Limits);
        cancellationToken.ThrowIfCancellationRequested();
        var dense = layer.Prefill(tokens, SparseLimits.Dense);
        return new DepthResult(depth, decode.Blocks, decode.KeptBlocks, decode.Seconds, decode.BytesPerSecond * decode.Seconds, probe, sparse.KeptShare, tokens, dense.Seconds, sparse.Seconds, null, dense.OperationsPerSecond * dense.Seconds, null);
    }

    /// <summary>Median time of a decode step of the whole model at that depth.</summary>
    private double Step(ModelManifest manifest, int depth, CancellationToken cancellationToken)
    {
        say($"fill {depth} tokens of {manifest.Config.LayerCount} layers, {plan.Steps} decode steps");
        using var steps = new StepBenchmark(installation, plan.Model, plan.CacheType, KvCache.BlocksFor(depth), 1, isTiny: false, graphs: false, overlaps: false, cancellationToken);
        return steps.Decode(1, depth, plan.Steps, cancellationToken, (plan.Limits, false))[0].Seconds;
    }
}
