using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Cli.Measuring;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie bench-layer</c>: single layers, beside ONNX Runtime's own operators.</summary>
internal static class BenchLayerCommand
{
    public static Command Create(CommandStreams streams)
    {
        var shape = new Option<string>("--shape") { Description = "Sizes of a released model.", DefaultValueFactory = static _ => "21b" }.AcceptOnlyFromAmong(SyntheticShape.Names);
        var model = new Option<string?>("--model") { Description = "An exported model whose sizes are taken instead.", HelpName = "DIR" };
        var formats = new Option<string>("--formats") { Description = $"Formats of the weights, with commas between: {string.Join(", ", WeightFormat.All)}.", DefaultValueFactory = static _ => "int4/128", HelpName = "F,F,…" };
        formats.Validators.Add(static result =>
        {
            foreach (var name in result.Tokens.SelectMany(static t => t.Value.Split(',')).Where(static name => !WeightFormat.TryParse(name, out _))) result.AddError($"--formats: '{name}' is no format. Known: {string.Join(", ", WeightFormat.All)}.");
        });
        var layers = new Option<string>("--layers") { Description = "Which layers.", DefaultValueFactory = static _ => "both" }.AcceptOnlyFromAmong("linear", "experts", "both");
        var tokens = CommonOptions.Numbers("--tokens", "Tokens at once, with commas between.", "1,4,8,16,32,64,512,2048", 1 << 16);
        var runs = new Option<int>("--runs") { Description = "Repetitions; medians are shown.", DefaultValueFactory = static _ => 5, HelpName = "N" }.InRange(1, 10_000);
        var rotate = new Option<int>("--rotate") { Description = "Megabytes that copies of a layer take together: of a linear layer at least, of a layer of experts at most, unless one is larger itself.", DefaultValueFactory = static _ => 256, HelpName = "MB" }.InRange(1, 1 << 20);
        var noRivals = new Option<bool>("--ours-only") { Description = "Leave ONNX Runtime's operators out." };
        var threads = new Option<int>("--threads") { Description = "Threads that compute.", DefaultValueFactory = static _ => Environment.ProcessorCount, HelpName = "N" }.InRange(1, 1024);
        var kernels = new Option<string?>("--kernels") { Description = "Kernel family, instead of the best that this machine runs." }.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. KernelRegistry.All.Select(static k => k.Name)]);
        var json = new Option<string?>("--json") { Description = "Also write everything to this file.", HelpName = "FILE" };
        var plot = BenchCommand.Plot();
        var command = new DocumentedCommand("bench-layer",
            "Measures one linear layer and one layer of experts, beside ONNX Runtime's MatMulNBits and QMoE.",
            "Weights are random. All contestants run on ONNX Runtime's thread pool and take turns; each is compared with the reference kernels before it is timed. Weights rotate, over copies of a\nlayer and over the experts that other tokens choose: a cache that holds less than half of --rotate cannot serve them.\nONNX Runtime's operators have blocks of 32 and 128 and 8-bit activations (accuracy level 4). 'x ORT' is how many times as fast ours is.",
            "ernie bench-layer", "ernie bench-layer --formats bf16,int4/128,int2 --layers experts --tokens 1,16,512 --plot experts.svg")
        { shape, model, formats, layers, tokens, runs, rotate, noRivals, threads, kernels, json, plot };
        command.SetAction(async (result, cancellationToken) =>
        {
            var plan = new LayerBenchmarkPlan
            {
                Config = result.GetValue(model) is { } folder ? ModelManifest.Read(folder).Config : SyntheticShape.Of(result.GetValue(shape)!, null),
                Formats = [.. result.GetValue(formats)!.Split(',').Select(static name => WeightFormat.TryParse(name, out var format) ? format : default).Distinct()],
                Tokens = CommonOptions.NumbersOf(result.GetValue(tokens)!),
                Threads = result.GetValue(threads),
                Runs = result.GetValue(runs),
                RotatingBytes = (long)result.GetValue(rotate) << 20,
                Linear = result.GetValue(layers) != "experts",
                Experts = result.GetValue(layers) != "linear",
                OnnxRuntime = !result.GetValue(noRivals),
                Kernels = result.GetValue(kernels) is { } name ? KernelRegistry.Choose(name) : KernelRegistry.Choose(),
            };
            LayerBenchmarkResult measured;
            using (var progress = new ProgressLine(streams, "bench-layer"))
            {
                measured = await Task.Run(() =>
                {
                    using var benchmark = new LayerBenchmark(plan, text => progress.Show(null, () => text));
                    return benchmark.Run(cancellationToken);
                }, cancellationToken).ConfigureAwait(false);
            }
            await streams.Out.WriteAsync(Table(measured)).ConfigureAwait(false);
            if (result.GetValue(json) is { } file) await File.WriteAllTextAsync(file, JsonSerializer.Serialize(measured, BenchCommand.Json) + "\n", cancellationToken).ConfigureAwait(false);
            if (result.GetValue(plot) is { } picture) BenchmarkPlot.Save(measured, picture);
            return ExitCode.Success;
        });
        return command;
    }

    private static string Table(LayerBenchmarkResult r)
    {
        var text = new StringWriter(CultureInfo.InvariantCulture) { NewLine = "\n" };
        text.WriteLine($"runs on  {r.Machine.Processor}, {r.Threads} threads, kernels {r.Kernels}, .NET {r.Machine.DotNet}, ONNX Runtime {r.Machine.OnnxRuntime}");
        text.WriteLine($"probes   {BenchCommand.Probes(r.Before, r.After, r.Threads)}");
        foreach (var absent in r.Absent) text.WriteLine($"absent   {absent}");
        foreach (var layer in r.Rows.GroupBy(static row => row.Layer))
        {
            text.WriteLine();
            text.WriteLine($"{layer.Key}; weights rotate over {string.Join(", ", layer.DistinctBy(static row => (row.Name, row.Format)).Select(static row => $"{row.RotatingBytes / 1e6:F0} MB ({row.Name} {row.Format})"))}");
            text.WriteLine($"{"tokens",6} {"",-28} {"µs",10} {"best",10} {"GB",7} {"GB/s",6} {"probe",6} {"%",4} {"GOP/s",6} {"probe",6} {"%",4} {"experts",7} {"error",8}  x ORT 32, 128");
            foreach (var row in layer)
            {
                var ratios = row.IsOurs ? $"{Ratio(layer, row, 32)}, {Ratio(layer, row, 128)}" : "";
                text.WriteLine($"{row.Tokens,6} {row.Name + " " + row.Format,-28} {row.Seconds * 1e6,10:F0} {row.BestSeconds * 1e6,10:F0} {row.Bytes / 1e9,7:F4} {row.BytesPerSecond / 1e9,6:F1} {row.ReadProbe / 1e9,6:F1} {row.BytesPerSecond / row.ReadProbe * 100,4:F0} {row.OperationsPerSecond / 1e9,6:F0} {row.ArithmeticProbe / 1e9,6:F0} {row.OperationsPerSecond / row.ArithmeticProbe * 100,4:F0} {(row.DistinctExperts > 0 ? row.DistinctExperts.ToString("F1", CultureInfo.InvariantCulture) : ""),7} {row.Difference,8:G2}  {ratios}");
            }
        }
        return text.ToString();
    }

    /// <summary>Against ONNX Runtime's operator of the same width, or of four bits where it has no such width.</summary>
    private static string Ratio(IEnumerable<LayerRow> rows, LayerRow ours, int block)
    {
        var rivals = rows.Where(row => !row.IsOurs && row.Tokens == ours.Tokens && row.Format.EndsWith($"/{block}", StringComparison.Ordinal)).ToArray();
        var rival = Array.Find(rivals, row => row.Format.Split('/')[0] == ours.Format.Split('/')[0]) ?? Array.Find(rivals, static row => row.Format.StartsWith("int4", StringComparison.Ordinal));
        return rival is null ? "-" : (rival.Seconds / ours.Seconds).ToString("F2", CultureInfo.InvariantCulture);
    }
}
