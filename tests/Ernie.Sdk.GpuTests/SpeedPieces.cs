using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.GpuTests.Speed;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests;

/// <summary>What the card can do, and which part of it the kernels that matter reach at the sizes of 21B-A3B.</summary>
internal static class SpeedPieces
{
    private const string ReadRate = "read rate", TensorRate = "bf16 mma.sync rate";
    private const int LongDepth = 131_072;
    /// <summary>A sparse prefill over a dense one at <see cref="LongDepth"/>: so many times as fast, over the share s of the blocks that it reads; and where those are few, this at least.</summary>
    private const double SparsePrefillBar = 0.75, FewBlocks = 0.19, FewBlocksBar = 3.86;
    private static readonly WeightFormat[] s_formats = [WeightFormat.Int8(128), WeightFormat.Int4(128), WeightFormat.Int2, WeightFormat.BFloat16];

    public static IReadOnlyList<Piece> All { get; } =
    [
        new("kernels/card", "reads, copies and multiplies as fast as the card can", Card),
        new("kernels/speed-experts", "a layer of experts of 21B: decode against the read rate, prefill against the tensor rate", Experts),
        new("kernels/speed-linear", "linear layers of 21B likewise", Linear),
        new("kernels/speed-decode", "attention of a decode step over a paged cache", Decode),
        new("kernels/speed-prefill", "attention of a prefill's chunk at depth", Prefill),
    ];

    /// <summary>21B-A3B, or a shape that an emulated GPU computes.</summary>
    public static ErnieConfig Shape(PieceRun run) => run.IsTiny
        ? ReleasedShapes.Medium21B with { HiddenSize = 128, ExpertIntermediateSize = 128, ExpertCount = 4, ExpertsPerToken = 2, HeadCount = 4, KvHeadCount = 2, HeadDim = 16, VocabSize = 300 }
        : ReleasedShapes.Medium21B;

    private static Task Card(PieceRun run) => On(run, (context, _) =>
    {
        using var probes = new CardProbes(context, run.IsTiny);
        run.Check("the probes compute what they should", probes.Check);
        run.Measured("read", probes.ReadRate() / 1e9, "GB/s");
        run.Measured("copy on the device, both ways", probes.CopyRate() / 1e9, "GB/s");
        run.Measured("bf16 mma.sync from registers", probes.TensorRate() / 1e12, "TFLOP/s", note: "Hopper's own instruction, wgmma, is faster: no kernel here uses it");
    });

    private static Task Experts(PieceRun run) => On(run, (context, card) =>
    {
        foreach (var format in run.IsTiny ? s_formats[1..2] : s_formats)
        {
            using var layer = new ExpertsSpeed(context, Shape(run), format, run.IsTiny);
            foreach (var tokens in run.IsTiny ? [1, 20] : new[] { 1, 4, 16, 64, 512, 2048, 8192 })
            {
                run.CancellationToken.ThrowIfCancellationRequested();
                var r = layer.Measure(tokens);
                var note = Text($"{r.Seconds * 1e6:F1} µs a layer, {r.Experts:F1} experts; {Launch(r.Seconds, r.LaunchSeconds)}");
                if (tokens <= 64) run.Measured($"{format} experts, {tokens} tokens", r.BytesPerSecond / 1e9, "GB/s", card.Read / 1e9, ReadRate, note);
                else run.Measured($"{format} experts, {tokens} tokens", r.OperationsPerSecond / 1e12, "TFLOP/s", card.Tensor / 1e12, TensorRate, note);
            }
        }
    });

    private static Task Linear(PieceRun run) => On(run, (context, card) =>
    {
        var config = Shape(run);
        foreach (var format in run.IsTiny ? s_formats[1..2] : [.. s_formats.Where(static format => format.Kind != WeightKind.Int2)])
        {
            foreach (var (name, rows, columns) in new[] { ("q|k|v", config.QkvSize, config.HiddenSize), ("head", config.VocabSize, config.HiddenSize) })
            {
                using var layer = new LinearSpeed(context, format, rows, columns, run.IsTiny);
                foreach (var tokens in run.IsTiny ? [1] : name == "head" ? [1, 16, 64] : new[] { 1, 16, 64, 512, 2048 })
                {
                    run.CancellationToken.ThrowIfCancellationRequested();
                    var (seconds, launch, bytes, operations) = layer.Measure(tokens);
                    var note = Text($"{seconds * 1e6:F1} µs; {Launch(seconds, launch)}");
                    if (tokens <= 64) run.Measured($"{format} {name}, {tokens} tokens", bytes / 1e9, "GB/s", card.Read / 1e9, ReadRate, note);
                    else run.Measured($"{format} {name}, {tokens} tokens", operations / 1e12, "TFLOP/s", card.Tensor / 1e12, TensorRate, note);
                }
            }
        }
    });

    private static Task Decode(PieceRun run) => On(run, (context, card) =>
    {
        var plas = new ErnieSparseAttention().Limits();
        foreach (var type in run.IsTiny ? [KvElementType.BFloat16] : new[] { KvElementType.BFloat16, KvElementType.Int8 })
        {
            foreach (var (depth, sequences) in run.IsTiny ? [(260, 2)] : new[] { (4096, 1), (4096, 16), (4096, 64), (32_768, 1), (32_768, 16), (131_072, 1), (131_072, 8) })
            {
                run.CancellationToken.ThrowIfCancellationRequested();
                var what = $"{type} decode, {sequences} × {depth}";
                if (AttentionSpeed.PoolBytes(Shape(run), type, depth, sequences) > context.FreeBytes() / 2)
                {
                    run.Skip(what, "The cache of one layer would take more than half of the memory that is free.");
                    continue;
                }
                using var layer = new AttentionSpeed(context, Shape(run), type, depth, sequences, run.IsTiny);
                foreach (var (name, limits) in new[] { ("dense", SparseLimits.Dense), ("PLAS", plas) })
                {
                    if (name == "PLAS" && limits.DecodeIsDense(depth - 1)) continue;
                    var r = layer.Decode(limits);
                    run.Measured($"{what}, {name}", r.BytesPerSecond / 1e9, "GB/s", card.Read / 1e9, ReadRate, Text($"{r.Seconds * 1e6:F1} µs a layer, {r.KeptBlocks:F1} of {r.Blocks} blocks; {Launch(r.Seconds, r.LaunchSeconds)}"));
                }
            }
        }
    });

    private static Task Prefill(PieceRun run) => On(run, (context, card) =>
    {
        var plas = run.IsTiny ? new SparseLimits(1, 2, 256, 1, 2, 256) : new ErnieSparseAttention().Limits();
        foreach (var depth in run.IsTiny ? [390] : new[] { 4096, 32_768, LongDepth })
        {
            run.CancellationToken.ThrowIfCancellationRequested();
            using var layer = new AttentionSpeed(context, Shape(run), KvElementType.BFloat16, depth, 1, run.IsTiny);
            foreach (var tokens in run.IsTiny ? [130] : new[] { 512, 2048 })
            {
                var dense = layer.Prefill(tokens, SparseLimits.Dense);
                run.Measured($"last {tokens} of {depth}, dense", dense.OperationsPerSecond / 1e12, "TFLOP/s", card.Tensor / 1e12, TensorRate, Text($"{dense.Seconds * 1e3:F3} ms a layer"));
                if (plas.PrefillIsDense(depth / KvBlockLayout.BlockSize - 1)) continue;
                var sparse = layer.Prefill(tokens, plas);
                var (ratio, share) = (dense.Seconds / sparse.Seconds, sparse.KeptShare);
                var least = Math.Max(SparsePrefillBar / share, share <= FewBlocks ? FewBlocksBar : 0);
                run.Measured($"last {tokens} of {depth}, PLAS", ratio, "times as fast", note: Text($"{sparse.Seconds * 1e3:F3} ms a layer, s = {share:F3}"),
                    bar: run.IsTiny || depth == LongDepth ? Bar.AtLeast(ratio, least, Text($"≥ {least:F2}, from {SparsePrefillBar} / s{(share <= FewBlocks ? $" and {FewBlocksBar} at s ≤ {FewBlocks}" : "")}")) : null, figures: ("keptShare", share));
            }
        }
    });

    private static string Launch(double seconds, double launchSeconds) =>
        launchSeconds > 0.9 * seconds ? Text($"the CPU takes {launchSeconds * 1e6:F1} µs to ask for it: that is what is measured") : Text($"asked for in {launchSeconds * 1e6:F1} µs");

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    /// <summary>With what the card can do, measured in the same process.</summary>
    private static Task On(PieceRun run, Action<CudaContext, (double Read, double Tensor)> work)
    {
        using var context = run.Installation.Gpu().Retain();
        double read, tensor;
        using (var probes = new CardProbes(context, run.IsTiny)) (read, tensor) = (probes.ReadRate(), probes.TensorRate());
        work(context, (read, tensor));
        return Task.CompletedTask;
    }
}
