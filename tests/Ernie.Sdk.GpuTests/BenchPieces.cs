using System.Diagnostics;
using System.Globalization;
using Ernie.Cli;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests;

/// <summary>A model of random weights in the shape of 21B-A3B: steps at depth, and prompts through the public interface.</summary>
internal static class BenchPieces
{
    private const int MostSequences = 64;
    private static readonly (int Depth, int[] Sequences)[] s_decodes = [(4096, [1, 4, 16, 64]), (16_384, [1, 4, 16, 64]), (65_536, [1, 4, 16]), (131_072, [1, 4, 16])];

    public static IReadOnlyList<Piece> All { get; } =
    [
        .. new[] { ErniePrecision.Int4, ErniePrecision.Int2 }.SelectMany(static precision => new[]
        {
            new Piece($"bench/synth-{Name(precision)}", $"writes the model with {Name(precision)} experts, if it is not there yet", run => Synth(run, precision)),
            new Piece($"bench/decode-{Name(precision)}", "decode steps after 4K to 128K tokens, 1 to 64 sequences where they fit", run => Decode(run, precision)),
            new Piece($"bench/prefill-{Name(precision)}", "steps of a prefill at depth", run => Prefill(run, precision)),
            new Piece($"bench/prompts-{Name(precision)}", "prompts and answers through the public interface", run => Prompts(run, precision)),
        }),
    ];

    private static string Name(ErniePrecision precision) => precision == ErniePrecision.Int4 ? "int4" : "int2";

    private static ErnieConfig Shape(PieceRun run) => run.IsTiny
        ? ReleasedShapes.Medium21B with
        {
            HiddenSize = 128, IntermediateSize = 256, LayerCount = 2, MoeLayers = [false, true], HeadCount = 4, KvHeadCount = 2, HeadDim = 16, ExpertCount = 4, ExpertsPerToken = 2, ExpertIntermediateSize = 128, SharedExpertCount = 1,
            VocabSize = 512, ContextLength = 1024,
        }
        : SyntheticShape.Of("21b", run.Options.Layers);

    private static string Folder(PieceRun run, ErniePrecision precision) => Path.GetFullPath(Path.Combine(run.Options.Work, $"21b-{Name(precision)}-{(run.IsTiny ? "tiny" : $"{Shape(run).LayerCount}-layers")}"));

    private static bool IsThere(PieceRun run, ErniePrecision precision)
    {
        if (File.Exists(Path.Combine(Folder(run, precision), ModelManifest.FileName))) return true;
        run.Skip("(the piece)", $"{Folder(run, precision)} is missing: run bench/synth-{Name(precision)} first.");
        return false;
    }

    private static Task Synth(PieceRun run, ErniePrecision precision)
    {
        var folder = Folder(run, precision);
        if (File.Exists(Path.Combine(folder, ModelManifest.FileName)))
        {
            run.Skip("writing the model", $"{folder} is there.");
            return Task.CompletedTask;
        }
        var clock = Stopwatch.StartNew();
        ErnieExporter.Export(new SyntheticWeights(Shape(run), 0), null, folder, new ErnieExportOptions { Experts = precision, Dense = ErniePrecision.Int4, ModelName = $"random-21b-{Name(precision)}" }, null, run.CancellationToken);
        var manifest = ModelManifest.Read(folder);
        run.Measured("writing the model", clock.Elapsed.TotalSeconds, "s", note: Text($"{manifest.Config.LayerCount} layers, {manifest.WeightBytes:N0} bytes of weights: {manifest.Formats.Describe(manifest.Config)}"));
        return Task.CompletedTask;
    }

    private static Task Decode(PieceRun run, ErniePrecision precision)
    {
        if (!IsThere(run, precision)) return Task.CompletedTask;
        var (copy, kvType, plas) = (CopyRate(run), ErnieKvCacheType.BFloat16, new ErnieSparseAttention().Limits());
        var cases = run.IsTiny ? [(260, 2)] : s_decodes.SelectMany(static row => row.Sequences.Select(sequences => (row.Depth, Sequences: sequences))).ToArray();
        var fitting = cases.Where(item => Fits(run, precision, kvType, item.Item1, item.Item2)).ToArray();
        foreach (var (depth, sequences) in cases.Except(fitting)) run.Skip($"{sequences} × {depth}", "ErniePlan says that it does not fit.");
        if (fitting.Length == 0) return Task.CompletedTask;
        using var model = Load(run, precision, kvType, fitting.Max(static item => item.Item2 * KvCache.BlocksFor(item.Item1)));
        foreach (var (depth, sequences) in fitting)
        {
            if (sequences * KvCache.BlocksFor(depth) > model.Blocks)
            {
                run.Skip($"{sequences} × {depth}", $"The cache has {model.Blocks} blocks only.");
                continue;
            }
            SparseLimits[] limits = plas.DecodeIsDense(depth - 1) ? [SparseLimits.Dense] : [SparseLimits.Dense, plas];
            var seconds = model.Decode(sequences, depth, run.IsTiny ? 1 : 15, run.CancellationToken, limits);
            var bytes = BytesOfStep(model.Manifest, sequences) + CacheBytes(model.Manifest.Config, kvType, depth, sequences);
            run.Measured($"{sequences} × {depth}, dense", sequences / seconds[0], "tok/s", note: Text($"{seconds[0] * 1e3:F2} ms a step; {bytes / 1e9:F2} GB a step at {bytes / seconds[0] / 1e9:F0} GB/s, {bytes / seconds[0] / copy:P0} of the copy rate"));
            if (seconds.Length > 1) run.Measured($"{sequences} × {depth}, PLAS", sequences / seconds[1], "tok/s", note: Text($"{seconds[1] * 1e3:F2} ms a step; {seconds[0] / seconds[1]:F2} times as fast"));
        }
        return Task.CompletedTask;
    }

    private static Task Prefill(PieceRun run, ErniePrecision precision)
    {
        if (!IsThere(run, precision)) return Task.CompletedTask;
        var plas = new ErnieSparseAttention().Limits();
        int[] depths = run.IsTiny ? [260] : [2048, 8192, 32_768, 131_072];
        using var model = Load(run, precision, ErnieKvCacheType.BFloat16, KvCache.BlocksFor(depths.Max()));
        var active = ParameterCount.Of(model.Manifest.Config).ActivePerToken;
        foreach (var depth in depths)
        {
            foreach (var tokens in run.IsTiny ? [130] : new[] { 512, 2048 })
            {
                SparseLimits[] limits = plas.PrefillIsDense(depth / KvBlockLayout.BlockSize - 1) ? [SparseLimits.Dense] : [SparseLimits.Dense, plas];
                var seconds = model.Prefill(tokens, depth, run.IsTiny ? 1 : 5, run.CancellationToken, limits);
                // The head computes one row only, which is too little to tell.
                run.Measured($"last {tokens} of {depth}, dense", tokens / seconds[0], "tok/s", note: Text($"{seconds[0] * 1e3:F2} ms a step, {2e-12 * tokens * active / seconds[0]:F1} TFLOP/s of products with weights"));
                if (seconds.Length > 1) run.Measured($"last {tokens} of {depth}, PLAS", tokens / seconds[1], "tok/s", note: Text($"{seconds[1] * 1e3:F2} ms a step; {seconds[0] / seconds[1]:F2} times as fast"));
            }
        }
        return Task.CompletedTask;
    }

    /// <summary>What a program sees: the engine, chunks of the default size, the choice of tokens.</summary>
    private static async Task Prompts(PieceRun run, ErniePrecision precision)
    {
        if (!IsThere(run, precision)) return;
        var models = new LoadedModels(run);
        int[] prompts = run.IsTiny ? [20] : [512, 4096, 32_768, 131_000];
        var clock = Stopwatch.StartNew();
        await using var model = await models.LoadAsync(Folder(run, precision), ErnieDevice.Cuda, ErnieKvCacheType.BFloat16, CacheBytes(Shape(run), ErnieKvCacheType.BFloat16, prompts.Max() + 256, 2), static options => options.PrefixCacheBytes = 0).ConfigureAwait(false);
        run.Measured("load", clock.Elapsed.TotalSeconds, "s");
        await models.AnswerAsync(model, Random(model, 20), 2).ConfigureAwait(false);
        foreach (var length in prompts)
        {
            run.CancellationToken.ThrowIfCancellationRequested();
            clock.Restart();
            var (first, count) = (0.0, 0);
            var options = new ErnieGenerationOptions { Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 2, MaxTokens = run.IsTiny ? 3 : 65, IgnoreStopTokens = true };
            await foreach (var _ in model.GenerateAsync(Random(model, length), options, run.CancellationToken).ConfigureAwait(false))
            {
                if (count++ == 0) first = clock.Elapsed.TotalSeconds;
            }
            run.Measured($"prompt of {length}", length / first, "tok/s", note: Text($"{first:F2} s to the first token; then {(count - 1) / (clock.Elapsed.TotalSeconds - first):F1} tok/s"));
        }
    }

    private static int[] Random(ErnieModel model, int count)
    {
        var random = new Random(count);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(model.VocabularySize))];
    }

    private static StepBenchmark Load(PieceRun run, ErniePrecision precision, ErnieKvCacheType kvType, int blocks)
    {
        var clock = Stopwatch.StartNew();
        var model = new StepBenchmark(run.Installation, Folder(run, precision), kvType, blocks, MostSequences, run.IsTiny, run.CancellationToken);
        run.Measured("load", clock.Elapsed.TotalSeconds, "s", note: Text($"{model.Blocks} blocks of cache; {model.FreeBytes / 1e9:F1} GB stay free"));
        return model;
    }

    private static bool Fits(PieceRun run, ErniePrecision precision, ErnieKvCacheType kvType, int depth, int sequences)
    {
        using var context = run.Installation.Gpu().Retain();
        var plan = ErniePlan.ForModel(Folder(run, precision), new ErniePlanOptions { GpuBytes = context.FreeBytes(), ContextLength = depth, Requests = sequences, KvCacheType = kvType, PrefillChunkTokens = 2048 });
        return plan.IsWhollyOnGpus;
    }

    private static double CopyRate(PieceRun run)
    {
        using var context = run.Installation.Gpu().Retain();
        using var probes = new CardProbes(context, run.IsTiny);
        var rate = probes.CopyRate();
        run.Measured("copy on the device, both ways", rate / 1e9, "GB/s");
        return rate;
    }

    private static long CacheBytes(ErnieConfig config, ErnieKvCacheType kvType, int depth, int sequences) =>
        (long)new KvBlockLayout(ErnieModel.KvTypeOf(kvType), config.KvHeadCount, config.HeadDim).BlockBytes * config.LayerCount * KvCache.BlocksFor(depth) * sequences;

    /// <summary>Weights that a decode step reads: all but the experts that no token chooses, of which random routers leave so many on average, and but the embedding where the head has a matrix of its own.</summary>
    private static double BytesOfStep(ModelManifest manifest, int tokens)
    {
        var config = manifest.Config;
        var ofExpert = manifest.Formats.Experts.Bytes(2, config.ExpertIntermediateSize, config.HiddenSize) + manifest.Formats.Experts.Bytes(1, config.HiddenSize, config.ExpertIntermediateSize);
        var unchosen = config.ExpertCount * Math.Pow(1 - (double)config.ExpertsPerToken / config.ExpertCount, tokens);
        var embedding = manifest.Formats.SharesEmbedding(config) ? 0 : manifest.Tensors.First(static tensor => tensor.Name == TensorNames.Embedding).Bytes;
        return manifest.WeightBytes - config.MoeLayerCount * unchosen * ofExpert - embedding;
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
