using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Cli.Measuring;
using Ernie.Cli.Measuring.Cards;
using Ernie.Sdk;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie bench</c>: how fast a model runs, beside what the machine can do.</summary>
internal static class BenchCommand
{
    /// <summary>How measurements are written to files.</summary>
    public static JsonSerializerOptions Json { get; } = new() { WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.CamelCase };

    public static Command Create(CommandStreams streams)
    {
        var runs = new Option<int>("--runs") { Description = "Repetitions; medians are shown.", DefaultValueFactory = static _ => 3, HelpName = "N" }.InRange(1, 1000);
        var tokens = new Option<int>("--tokens") { Description = "Tokens that each sequence decodes in a run.", DefaultValueFactory = static _ => 48, HelpName = "N" }.InRange(2, 1 << 20);
        var sequences = CommonOptions.Numbers("--sequences", "Sequences that decode at once, with commas between.", "1,2,4,8,16,32,64", 4096);
        var prefill = CommonOptions.Numbers("--prefill", "Lengths of prompts, with commas between.", "128,512,2048", 1 << 20);
        var depth = CommonOptions.Numbers("--depth", "Measure attention and decode steps after so many tokens instead, with commas between.", "", 1 << 20);
        var json = new Option<string?>("--json") { Description = "Also write everything to this file.", HelpName = "FILE" };
        var plot = Plot();
        var command = new DocumentedCommand("bench",
            "Measures a model: load, memory, decode, prefill.",
            "Rates stand beside what the machine reads from memory and computes from registers, measured in the same run. Bytes are counted from the tensors that each step was given; of the experts only\nthose that its tokens chose. Prompts are random ids, other ones in every run. Load time is of files in the page cache: of all loads but the first.\nWith --depth the cache is not prefilled but filled, with keys whose neighbours resemble one another as a text's do; attention gets queries of the same kind in place of the model's. Shown beside the\nblocks that sparse attention keeps: 'kept' of a KV head in decode, 's' as a share in prefill of the last 1,024 tokens of one layer.\nOn a GPU rates stand beside what the card copies on itself, reading and writing; attention counts as dense but with --depth, where whole steps have queries of the model's own.",
            "ernie bench model", "ernie bench model --depth 4096,131072 --kv int8", "ernie bench model --depth 131072 --attention 50/60/64/75", "ernie bench model --sequences 1,8 --prefill 512 --runs 5 --json bench.json --plot bench.svg");
        var model = ModelOptions.AddTo(command, null, defaultKv: "bf16", defaultAttention: "plas", first: [runs, tokens, sequences, prefill, depth, json, plot]);
        command.Validators.Add(result =>
        {
            if (result.GetValue(depth) is { Length: > 0 } && result.GetValue(plot) is not null) result.AddError("--plot draws no measurements of --depth.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            foreach (var wanted in new[] { result.GetValue(json), result.GetValue(plot) })
            {
                if (wanted is not null) WholeFile.Check(wanted);
            }
            if (CommonOptions.NumbersOf(result.GetValue(depth)!) is { Count: > 0 } depths)
            {
                DepthBenchmarkResult deep;
                using (var progress = new ProgressLine(streams, "bench"))
                {
                    var atDepth = await model.AtDepthAsync(result, streams, depths, result.GetValue(runs), result.GetValue(tokens), cancellationToken).ConfigureAwait(false);
                    void Say(string text) => progress.Show(null, () => text);
                    deep = await Task.Run(() => atDepth.Installation is { } gpu ? new CardDepthBenchmark(atDepth, gpu, Say).Run(cancellationToken) : new DepthBenchmark(atDepth, Say).Run(cancellationToken), cancellationToken).ConfigureAwait(false);
                }
                await streams.Out.WriteAsync(Table(deep)).ConfigureAwait(false);
                if (result.GetValue(json) is { } deepFile) WholeFile.Write(deepFile, [.. JsonSerializer.SerializeToUtf8Bytes(deep, Json), (byte)'\n']);
                return ExitCode.Success;
            }
            var plan = new ModelBenchmarkPlan
            {
                Threads = model.Threads(result),
                Runs = result.GetValue(runs),
                Tokens = result.GetValue(tokens),
                Sequences = CommonOptions.NumbersOf(result.GetValue(sequences)!),
                Prompts = CommonOptions.NumbersOf(result.GetValue(prefill)!),
                Installation = model.Gpu(result, streams),
                GpuCount = model.GpuCount(result),
            };
            var mostSequences = plan.Sequences.Append(1).Max();
            ModelBenchmarkResult measured;
            using (var progress = new ProgressLine(streams, "bench"))
            {
                async Task<(ErnieModel, ITrafficMeter)> LoadAsync()
                {
                    if (plan.Installation is null)
                    {
                        MeteredKernels? kernels = null;
                        return (await model.LoadAsync(result, streams, mostSequences, cancellationToken, wrap: chosen => kernels = new MeteredKernels(chosen)).ConfigureAwait(false), kernels!);
                    }
                    var meter = new CardMeter();
                    var loaded = await model.LoadAsync(result, streams, mostSequences, cancellationToken, configure: options => options.Observer = meter.Observe).ConfigureAwait(false);
                    meter.Attach(ModelManifest.Read(loaded.Path), model.KvType(result));
                    return (loaded, meter);
                }
                var benchmark = new ModelBenchmark(plan, LoadAsync, text => progress.Show(null, () => text));
                measured = await benchmark.RunAsync(cancellationToken).ConfigureAwait(false);
            }
            await streams.Out.WriteAsync(Table(measured)).ConfigureAwait(false);
            if (result.GetValue(json) is { } file) WholeFile.Write(file, [.. JsonSerializer.SerializeToUtf8Bytes(measured, Json), (byte)'\n']);
            if (result.GetValue(plot) is { } picture) BenchmarkPlot.Save(measured, picture);
            return ExitCode.Success;
        });
        return command;
    }

    internal static string Table(ModelBenchmarkResult r)
    {
        var text = new StringWriter(CultureInfo.InvariantCulture) { NewLine = "\n" };
        text.WriteLine($"model    {r.Model}: {r.Formats}; {Size.Text(r.WeightBytes)} of weights");
        text.WriteLine($"runs on  {(r.Card is null ? "" : $"{r.Card.Name}; ")}{r.Machine.Processor}, {r.Threads} threads, kernels {r.Kernels}, .NET {r.Machine.DotNet}, ONNX Runtime {r.Machine.OnnxRuntime}");
        text.WriteLine($"probes   {(r.Card is { } card ? $"the card copies {card.CopyBefore / 1e9:F1} and {card.CopyAfter / 1e9:F1} GB/s, reading and writing (before and after)" : Probes(r.Before!, r.After!, r.Threads))}");
        var warm = r.Loads.Skip(1).ToArray();
        text.WriteLine($"load     {Median.Of(warm.Select(static l => l.FirstToken)):F2} s to the first token of {ModelBenchmarkPlan.LoadPromptTokens}, of them {Median.Of(warm.Select(static l => l.Loaded)):F2} s in LoadAsync; the first load {r.Loads[0].FirstToken:F2} s");
        text.WriteLine($"memory   {Size.Text(r.Memory.Private)} private{(r.Memory.Mapped is { } mapped ? $" and {Size.Text(mapped)} of file pages" : "")} after that; {Size.Text(r.Memory.PeakPrivate)} private at the peak of {r.Memory.PrefillTokens} prompt tokens; peak of all {Size.Text(r.Memory.After.Peak)}");
        if (r.Decode.Count > 0)
        {
            text.WriteLine();
            text.WriteLine($"{"decode",-10} {"tok/s",9} {"ms/step",9} {"GB/step",8} {"GB/s",7} {"probe",7} {"%",4} {"GOP/s",8}{(r.ExpertCount > 0 ? $"  experts a layer, step / run (of {r.ExpertCount})" : "")}");
            foreach (var d in r.Decode)
                text.WriteLine($"{d.Sequences,10} {d.TokensPerSecond,9:F1} {d.StepSeconds * 1e3,9:F2} {d.StepBytes / 1e9,8:F3} {d.BytesPerSecond / 1e9,7:F1} {d.ReadProbe / 1e9,7:F1} {d.BytesPerSecond / d.ReadProbe * 100,4:F0} {d.OperationsPerSecond / 1e9,8:F0}{(r.ExpertCount > 0 ? $"  {d.DistinctExperts:F1} / {d.TouchedExperts:F1}" : "")}");
        }
        if (r.Prefill.Count > 0)
        {
            text.WriteLine();
            // A card's prompts stand beside what it copies: there is no probe of its arithmetic.
            var isCard = r.Card is not null;
            text.WriteLine($"{"prefill",-10} {"tok/s",9} {"ms",9} {"GB read",8} {"GOP/s",7}{(isCard ? $" {"GB/s",7}" : "")} {"probe",7} {"%",4}{(r.ExpertCount > 0 ? "           experts a layer" : "")}");
            foreach (var p in r.Prefill)
            {
                var (rate, probe) = isCard ? (p.BytesPerSecond, p.CopyProbe!.Value) : (p.OperationsPerSecond, p.ArithmeticProbe!.Value);
                text.WriteLine($"{p.Tokens,10} {p.TokensPerSecond,9:F1} {p.Seconds * 1e3,9:F1} {p.Bytes / 1e9,8:F3} {p.OperationsPerSecond / 1e9,7:F0}{(isCard ? $" {rate / 1e9,7:F1}" : "")} {probe / 1e9,7:F0} {rate / probe * 100,4:F0}{(r.ExpertCount > 0 ? $"           {p.TouchedExperts:F1}" : "")}");
            }
        }
        return text.ToString();
    }

    internal static string Table(DepthBenchmarkResult r)
    {
        var text = new StringWriter(CultureInfo.InvariantCulture) { NewLine = "\n" };
        text.WriteLine($"model    {r.Model}: {r.LayerCount} layers, {r.KvType} cache");
        text.WriteLine($"runs on  {(r.Card is null ? "" : $"{r.Card}; ")}{r.Machine.Processor}, {r.Threads} threads, kernels {r.Kernels}, .NET {r.Machine.DotNet}, ONNX Runtime {r.Machine.OnnxRuntime}");
        text.WriteLine();
        text.WriteLine($"{"decode, one layer",-18}{"blocks",7} {"kept",6} {"ms",8} {"MB",8} {"GB/s",7} {"probe",7} {"%",4}{(r.Depths.Any(static d => d.StepSeconds is not null) ? "   model, ms/step" : "")}");
        foreach (var d in r.Depths)
            text.WriteLine($"{d.Depth,17} {d.Blocks,7} {d.KeptBlocks,6:F1} {d.DecodeSeconds * 1e3,8:F3} {d.DecodeBytes / 1e6,8:F2} {d.BytesPerSecond / 1e9,7:F1} {d.ReadProbe / 1e9,7:F1} {d.BytesPerSecond / d.ReadProbe * 100,4:F0}{(d.StepSeconds is { } step ? $"   {step * 1e3,14:F2}" : "")}");
        text.WriteLine();
        text.WriteLine($"{"prefill, one layer",-18}{"tokens",7} {"s",6} {"dense ms",9} {"GOP/s",7} {"probe",7} {"sparse ms",10} {"faster",7} {"of 1/s",7}");
        foreach (var d in r.Depths)
            text.WriteLine($"{d.Depth,17} {d.PrefillTokens,7} {d.KeptShare,6:F3} {d.DenseSeconds * 1e3,9:F1} {d.DenseOperations / d.DenseSeconds / 1e9,7:F0} {(d.FloatProbe is { } arithmetic ? (arithmetic / 1e9).ToString("F0", CultureInfo.InvariantCulture) : "-"),7} {d.SparseSeconds * 1e3,10:F1} {d.Speedup,7:F2} {d.Speedup * d.KeptShare,7:F2}");
        return text.ToString();
    }

    /// <summary>What the machine could do before and after.</summary>
    public static string Probes(MachineReading before, MachineReading after, int threads)
    {
        return $"read {Pair(before.ReadOneThread, after.ReadOneThread)} GB/s with one thread, {Pair(before.ReadAllThreads, after.ReadAllThreads)} with {threads}; float {Pair(before.Float, after.Float)} GOP/s{(before.Int8 is { } int8 ? $", int8 {Pair(int8, after.Int8!.Value)}" : "")} (before and after)";

        static string Pair(double before, double after) => string.Create(CultureInfo.InvariantCulture, $"{before / 1e9:F1} and {after / 1e9:F1}");
    }

    /// <summary>The option that draws; another kind of file is wrong usage, before anything is measured.</summary>
    public static Option<string?> Plot()
    {
        var plot = new Option<string?>("--plot") { Description = "Also draw it to this file.", HelpName = "FILE.svg|FILE.png" };
        plot.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && !BenchmarkPlot.IsPicture(result.Tokens[0].Value)) result.AddError($"--plot draws .svg and .png; '{result.Tokens[0].Value}' is neither.");
        });
        return plot;
    }
}
