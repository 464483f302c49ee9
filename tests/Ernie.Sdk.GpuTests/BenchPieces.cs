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
    private const int Short = 4096, Long = 131_072, PrefillTokens = 2048;
    /// <summary>Of the read rate over the bytes that a token needs.</summary>
    private const double DecodeBarInt4 = 0.7, DecodeBarInt2 = 0.6;
    /// <summary>A sparse step at <see cref="Long"/> over one at <see cref="Short"/>, where no more blocks are kept.</summary>
    private const double SparseBar = 1.6;
    private const int SparseBarBlocks = 160, SparseBarBlocksInt8 = 280;
    /// <summary>Of the tensor rate, at <see cref="PrefillTokens"/>.</summary>
    private const double PrefillBar = 0.5;
    private static readonly int[] s_decodeDepths = [Short, 16_384, 65_536, Long], s_sequences = [1, 4, 16, MostSequences], s_prefillDepths = [PrefillTokens, 8192, 32_768, Long];

    public static IReadOnlyList<Piece> All { get; } =
    [
        .. new[] { ErniePrecision.Int4, ErniePrecision.Int2 }.SelectMany(static precision => new[]
        {
            new Piece($"bench/synth-{Name(precision)}", $"writes the model with {Name(precision)} experts, if it is not there yet", run => Synth(run, precision)),
            new Piece($"bench/decode-{Name(precision)}", "decode steps after 4K to 128K tokens, 1 to 64 sequences where they fit", run => Decode(run, precision)),
            new Piece($"bench/overlap-{Name(precision)}", "some of these with kernels that may begin while the ones before them end", run => Overlap(run, precision)),
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
        var card = MeasureCard(run);
        foreach (var kvType in new[] { ErnieKvCacheType.BFloat16, ErnieKvCacheType.Int8 })
        {
            (int Depth, int Sequences)[] cases = run.IsTiny ? [(260, 1), (390, 1), (260, 2)]
                : kvType == ErnieKvCacheType.Int8 ? [(Short, 1), (Long, 1), (Long, 16)]
                : [.. s_decodeDepths.SelectMany(static depth => s_sequences.Select(sequences => (depth, sequences)))];
            Decode(run, precision, kvType, cases, card);
        }
        return Task.CompletedTask;
    }

    private static Task Overlap(PieceRun run, ErniePrecision precision)
    {
        if (IsThere(run, precision)) Decode(run, precision, ErnieKvCacheType.BFloat16, run.IsTiny ? [(260, 1)] : [(Short, 1), (Short, 16), (Long, 1)], MeasureCard(run), overlaps: true);
        return Task.CompletedTask;
    }

    private static void Decode(PieceRun run, ErniePrecision precision, ErnieKvCacheType kvType, (int Depth, int Sequences)[] cases, CardRates card, bool overlaps = false)
    {
        var kv = $"{(kvType == ErnieKvCacheType.Int8 ? "int8" : "bf16")}{(overlaps ? ", overlap" : "")}";
        var fitting = cases.Where(item => Fits(run, precision, kvType, item.Depth, item.Sequences)).ToArray();
        foreach (var (depth, sequences) in cases.Except(fitting)) run.Skip($"{kv}, {sequences} × {depth}", "ErniePlan says that it does not fit.");
        if (fitting.Length == 0) return;
        var plas = Limits(run);
        using var model = Load(run, precision, kvType, fitting.Max(static item => item.Sequences * KvCache.BlocksFor(item.Depth)), graphs: true, overlaps);
        double? shortStep = null;
        foreach (var (depth, sequences) in fitting)
        {
            if (sequences * KvCache.BlocksFor(depth) > model.Blocks)
            {
                run.Skip($"{kv}, {sequences} × {depth}", $"The cache has {model.Blocks} blocks only.");
                continue;
            }
            (SparseLimits Limits, bool Graphs)[] ways = plas.DecodeIsDense(depth - 1) ? [(SparseLimits.Dense, false), (SparseLimits.Dense, true)] : [(SparseLimits.Dense, false), (SparseLimits.Dense, true), (plas, false), (plas, true)];
            var times = model.Decode(sequences, depth, run.IsTiny ? 1 : 15, run.CancellationToken, ways);
            for (var i = 0; i < ways.Length; i++)
            {
                var (name, seconds) = ($"{kv}, {sequences} × {depth}, {(ways[i].Limits == plas ? "PLAS" : "dense")}{(ways[i].Graphs ? ", graphs" : "")}", times[i].Seconds);
                var bytes = BytesOfStep(model.Manifest, sequences) + CacheBytes(model.Manifest.Config, kvType, depth, sequences) * times[i].KeptShare;
                // Only the faster way has to reach it.
                var isBarred = kvType == ErnieKvCacheType.BFloat16 && (depth, sequences) == cases[0] && i == (times[1].Seconds < times[0].Seconds ? 1 : 0);
                var least = precision == ErniePrecision.Int4 ? DecodeBarInt4 : DecodeBarInt2;
                run.Measured(name, bytes / seconds / 1e9, "GB/s", card.Read / 1e9, "read rate",
                    Text($"{sequences / seconds:F1} tok/s, {seconds * 1e3:F3} ms a step, {bytes / 1e9:F2} GB; {bytes / seconds / card.Copy:P1} of the copy rate; {times[i].KeptBlocks:F1} of {KvCache.BlocksFor(depth)} blocks{(ways[i].Limits == plas ? $", {times[i - 2].Seconds / seconds:F2} times as fast as dense" : "")}{(ways[i].Graphs ? $", {times[i - 1].Seconds / seconds:F2} times as fast as without graphs" : "")}"),
                    isBarred ? Bar.AtLeast(bytes / seconds / card.Read, least, Text($"≥ {least:P0} of the read rate over the bytes that a token needs")) : null,
                    ("tokensPerSecond", sequences / seconds), ("milliseconds", seconds * 1e3), ("bytes", bytes), ("keptBlocks", times[i].KeptBlocks));
            }
            if (sequences != 1) continue;
            var fastest = times[^2..].MinBy(static time => time.Seconds);
            if (depth == cases[0].Depth) shortStep = fastest.Seconds;
            else if (depth == cases.Max(static item => item.Depth) && shortStep is { } before)
            {
                var (kept, most) = (fastest.KeptBlocks, kvType == ErnieKvCacheType.Int8 ? SparseBarBlocksInt8 : SparseBarBlocks);
                run.Measured($"{kv}, a PLAS step at {depth} over one at {cases[0].Depth}", fastest.Seconds / before, "times as long",
                    note: Text($"{fastest.Seconds * 1e3:F3} over {before * 1e3:F3} ms, {kept:F1} blocks kept{(kept > most ? $": the bar is for {most} at most" : "")}"),
                    bar: kept <= most ? Bar.AtMost(fastest.Seconds / before, SparseBar, Text($"≤ {SparseBar} at ≤ {most} kept blocks")) : null, figures: ("keptBlocks", kept));
            }
        }
        if (!model.UsesGraphs) run.Skip($"{kv}, graphs", "Capturing failed, and later steps were ordinary ones: see model/graphs.");
    }

    private static Task Prefill(PieceRun run, ErniePrecision precision)
    {
        if (!IsThere(run, precision)) return Task.CompletedTask;
        var (card, plas) = (MeasureCard(run), Limits(run));
        int[] depths = run.IsTiny ? [260, 390] : s_prefillDepths;
        using var model = Load(run, precision, ErnieKvCacheType.BFloat16, KvCache.BlocksFor(depths.Max()), graphs: false);
        var config = model.Manifest.Config;
        // The head computes one row only, which is too little to tell.
        var weights = ParameterCount.Of(config).ActivePerToken - (double)config.VocabSize * config.HiddenSize;
        foreach (var depth in depths)
        {
            foreach (var tokens in run.IsTiny ? [130] : new[] { 512, PrefillTokens })
            {
                SparseLimits[] limits = plas.PrefillIsDense(depth / KvBlockLayout.BlockSize - 1) ? [SparseLimits.Dense] : [SparseLimits.Dense, plas];
                var times = model.Prefill(tokens, depth, run.IsTiny ? 1 : 5, run.CancellationToken, limits);
                var attention = 4.0 * config.LayerCount * config.HeadCount * config.HeadDim * tokens * (depth - (tokens - 1) / 2.0);
                for (var i = 0; i < limits.Length; i++)
                {
                    var rate = (2 * tokens * weights + attention * times[i].KeptShare) / times[i].Seconds;
                    var isBarred = i == 0 && depth == depths[0] && tokens == (run.IsTiny ? 130 : PrefillTokens);
                    run.Measured($"last {tokens} of {depth}, {(i == 0 ? "dense" : "PLAS")}", rate / 1e12, "TFLOP/s", card.Tensor / 1e12, "bf16 mma.sync rate",
                        Text($"{tokens / times[i].Seconds:F0} tok/s, {times[i].Seconds * 1e3:F2} ms a step{(i == 0 ? "" : $", s = {times[i].KeptShare:F3}, {times[0].Seconds / times[i].Seconds:F2} times as fast as dense")}"),
                        isBarred ? Bar.AtLeast(rate / card.Tensor, PrefillBar, Text($"≥ {PrefillBar:P0} of the tensor rate at {PrefillTokens} tokens")) : null,
                        ("tokensPerSecond", tokens / times[i].Seconds), ("milliseconds", times[i].Seconds * 1e3), ("keptShare", times[i].KeptShare));
                }
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

    private static StepBenchmark Load(PieceRun run, ErniePrecision precision, ErnieKvCacheType kvType, int blocks, bool graphs, bool overlaps = false)
    {
        var clock = Stopwatch.StartNew();
        var model = new StepBenchmark(run.Installation, Folder(run, precision), kvType, blocks, MostSequences, run.IsTiny, graphs, overlaps, run.CancellationToken);
        run.Measured("load", clock.Elapsed.TotalSeconds, "s", note: Text($"{model.Blocks} blocks of cache; {model.FreeBytes / 1e9:F1} GB stay free"));
        return model;
    }

    /// <summary>The defaults, or some that are sparse where an emulated GPU comes to.</summary>
    private static SparseLimits Limits(PieceRun run) => run.IsTiny ? new SparseLimits(1, 2, 256, 1, 2, 256) : new ErnieSparseAttention().Limits();

    private static bool Fits(PieceRun run, ErniePrecision precision, ErnieKvCacheType kvType, int depth, int sequences)
    {
        using var context = run.Installation.Gpu().Retain();
        var plan = ErniePlan.ForModel(Folder(run, precision), new ErniePlanOptions { GpuBytes = context.FreeBytes(), ContextLength = depth, Requests = sequences, KvCacheType = kvType, PrefillChunkTokens = 2048 });
        return plan.IsWhollyOnGpus;
    }

    private static CardRates MeasureCard(PieceRun run)
    {
        using var context = run.Installation.Gpu().Retain();
        using var probes = new CardProbes(context, run.IsTiny);
        var card = new CardRates(probes.ReadRate(), probes.CopyRate(), probes.TensorRate());
        run.Measured("read", card.Read / 1e9, "GB/s");
        run.Measured("copy on the device, both ways", card.Copy / 1e9, "GB/s");
        run.Measured("bf16 mma.sync from registers", card.Tensor / 1e12, "TFLOP/s");
        return card;
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

    /// <summary>Bytes and operations a second.</summary>
    private readonly record struct CardRates(double Read, double Copy, double Tensor);
}
