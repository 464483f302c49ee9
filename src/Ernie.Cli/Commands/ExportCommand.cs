using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Ernie.Sdk;
using Ernie.Sdk.Export;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie export</c>: a checkpoint becomes an ONNX model.</summary>
internal static class ExportCommand
{
    public static Command Create(CommandStreams streams)
    {
        var checkpoint = new Argument<string>("CHECKPOINT") { Description = "Folder with config.json and safetensors files." };
        var output = new Argument<string>("OUT") { Description = "Folder to create." };
        var experts = CommonOptions.Experts("[default: as a quantised checkpoint holds them, else int4]");
        var dense = CommonOptions.Dense("[default: as a quantised checkpoint holds them, else int4]");
        var group = CommonOptions.Group();
        var calibration = new Option<string?>("--calibration")
        {
            Description = "What integer precisions are fitted to: text, parts of it between lines of '---', or JSON lines {\"ids\": […]}; 'none' rounds as if all inputs were alike. [default: a small text in several languages]",
            HelpName = "FILE|none",
        };
        var int4Layers = CommonOptions.Numbers("--int4-layers", "Layers whose routed experts are int4 where --experts is int2; the first layer is 0.", "", 4096, least: 0);
        var logLevel = CommonOptions.LogLevel();
        var command = new DocumentedCommand("export", "Writes a checkpoint as an ONNX model.",
            "The folder holds model.onnx, model.weights, ernie.json with checksums, and the checkpoint's tokenizer files. It appears when it is complete; Ctrl+C removes what was written. "
            + "An export that was killed goes on when it is started again with the same checkpoint and options."
            + " Integer precisions are fitted to a calibration text, which takes most of the time; what they cost on a part of it that was held out is printed and stored in quality.json. A checkpoint without a tokenizer is rounded without a text, with a warning.",
            "ernie export samples/ernie-tiny-moe tiny", "ernie export ERNIE-4.5-21B-A3B-PT model --experts int2 --dense int8 --calibration texts.txt", "ernie export ERNIE-4.5-0.3B-PT model --experts bf16 --dense bf16")
        { checkpoint, output, experts, dense, group, calibration, int4Layers, logLevel };
        command.SetAction(async (result, cancellationToken) =>
        {
            var options = new ErnieExportOptions
            {
                Experts = CommonOptions.PrecisionOf(result.GetValue(experts)),
                Dense = CommonOptions.PrecisionOf(result.GetValue(dense)),
                GroupSize = CommonOptions.GroupOf(result.GetValue(group)!),
                Int4Layers = CommonOptions.NumbersOf(result.GetValue(int4Layers)!),
                Calibrate = result.GetValue(calibration) != "none",
                CalibrationFile = result.GetValue(calibration) is "none" ? null : result.GetValue(calibration),
                Logger = new StandardErrorLogger(streams.Error, result.GetValue(logLevel)),
            };
            var clock = Stopwatch.StartNew();
            using (var progress = new ProgressLine(streams, "export")) await ErnieExporter.ExportAsync(result.GetValue(checkpoint)!, result.GetValue(output)!, options, progress, cancellationToken).ConfigureAwait(false);
            await streams.Out.WriteLineAsync(Summary(result.GetValue(output)!, clock.Elapsed)).ConfigureAwait(false);
            if (QualityFile.Find(result.GetValue(output)!) is { } quality) await streams.Out.WriteLineAsync(QualityTable.Text(quality)).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    public static string Summary(string folder, TimeSpan elapsed)
    {
        var manifest = ModelManifest.Read(folder);
        return string.Create(CultureInfo.InvariantCulture, $"{folder}: {manifest.Tensors.Count} tensors, {Size.Text(manifest.WeightBytes)}, in {elapsed.TotalSeconds:F1} s ({manifest.WeightBytes / 1e6 / elapsed.TotalSeconds:F1} MB/s)");
    }
}
