using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Quantization;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk;

/// <summary>Writes a checkpoint as an ONNX model that ONNX Runtime loads, and checks what was written.</summary>
/// <remarks>
/// The output folder holds <c>model.onnx</c>, its weights in <c>model.weights</c>, the manifest <c>ernie.json</c>, and the checkpoint's tokenizer and template files.
/// It appears under its name only when complete; an export that is killed leaves at most <c>NAME.exporting</c> and <c>NAME.exporting.lock</c>, which nothing loads. The next export to
/// that name goes on from there if checkpoint, options and library are the same, and replaces them if not.
/// </remarks>
public static class ErnieExporter
{
    /// <summary>Exports a checkpoint.</summary>
    /// <param name="checkpoint">Folder with <c>config.json</c> and safetensors files in the -PT, transformers, -Paddle or -2Bits-Paddle layout.</param>
    /// <param name="output">Folder to create. It must not exist, or be empty.</param>
    /// <param name="options">Precisions; null for the defaults: int4 fitted to a calibration text, or what a quantised checkpoint holds.</param>
    /// <param name="progress">Told about every few megabytes.</param>
    /// <param name="cancellationToken">Stops the export and removes what it has written.</param>
    /// <exception cref="InvalidDataException">The checkpoint is damaged or incomplete.</exception>
    /// <exception cref="NotSupportedException">The checkpoint is valid, but not one that this library runs.</exception>
    /// <exception cref="IOException">The output exists or cannot be written, another export writes it, or the disk is full.</exception>
    public static Task ExportAsync(string checkpoint, string output, ErnieExportOptions? options = null, IProgress<ErnieProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(checkpoint);
        ArgumentException.ThrowIfNullOrEmpty(output);
        options = options?.Snapshot() ?? new ErnieExportOptions();
        return Task.Run(() =>
        {
            using var source = Checkpoint.Open(checkpoint, options.Logger);
            foreach (var note in source.Notes) options.Logger?.LogInformation("{Checkpoint}: {Note}", checkpoint, note);
            Export(source, checkpoint, output, options, progress, cancellationToken);
        }, cancellationToken);
    }

    /// <summary>Checks every byte of an exported model against its manifest's checksums.</summary>
    /// <param name="model">An exported model's folder.</param>
    /// <param name="progress">Told about every few megabytes.</param>
    /// <param name="cancellationToken">Stops the check.</param>
    /// <exception cref="InvalidDataException">A file or tensor is missing or differs; the message names it.</exception>
    public static Task VerifyAsync(string model, IProgress<ErnieProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(model);
        return Task.Run(() => ModelVerifier.Verify(model, progress, cancellationToken), cancellationToken);
    }

    /// <summary>Exports weights from anywhere; <paramref name="checkpoint"/> is the folder that tokenizer and template files are copied from, or null.</summary>
    internal static void Export(IWeightSource source, string? checkpoint, string output, ErnieExportOptions options, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var formats = ExportFormats.Of(source, options);
        var graph = ErnieGraph.Build(source.Config, formats, options.DebugOutputs);
        var weights = WeightFileWriter.Plan(graph.Weights);
        var model = graph.Build(ModelManifest.WeightFile, weights.Offsets, Producer);
        var calibration = Calibration(source, checkpoint, graph.Weights, options);
        var report = new QualityReport();
        using var folder = ExportFolder.Create(output, checkpoint is null ? null : ExportIdentity.Of(checkpoint, model, calibration?.Identity ?? ""));
        folder.RequireSpace(weights.TotalBytes);
        if (folder.Journal is { Finished.Count: > 0 and var finished }) options.Logger?.LogInformation("{Output}: goes on with an export that was interrupted after {Finished} of {Tensors} tensors.", output, finished, graph.Weights.Count);
        var tensors = weights.Write(folder.Path(ModelManifest.WeightFile), source, calibration, report, folder.Journal, progress, cancellationToken);
        folder.Write(ModelManifest.ModelFile, model);
        if (calibration is not null) folder.Write(QualityReport.FileName, report.Finish(graph.Weights).ToJson());
        if (checkpoint is not null) folder.CopySideFiles(checkpoint);
        var manifest = new ModelManifest
        {
            FormatVersion = ModelManifest.CurrentVersion,
            Name = options.ModelName ?? Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(checkpoint ?? output))),
            Producer = $"Ernie.Sdk {Producer}",
            Formats = formats,
            DebugOutputs = options.DebugOutputs,
            Config = source.Config,
            WeightBytes = weights.TotalBytes,
            Tensors = tensors,
            Files = folder.Files(),
        };
        cancellationToken.ThrowIfCancellationRequested();
        folder.Complete(manifest.ToJson());
    }

    /// <summary>The tokens to calibrate with; null where nothing is rounded, or nobody asks for it.</summary>
    /// <exception cref="InvalidDataException">The file of the options cannot be used, or int2 has nothing to calibrate with.</exception>
    private static CalibrationTokens? Calibration(IWeightSource source, string? checkpoint, IReadOnlyList<ExportedWeight> weights, ErnieExportOptions options)
    {
        var rounded = weights.Where(weight => weight.Format.IsPacked && !weight.Sources.All(name => source.Tensor(name).Holds(weight.Format))).ToList();
        if (rounded.Count == 0 || !options.Calibrate) return null;
        if (options.CalibrationFile is null && (checkpoint is null || !ErnieTokenizer.Exists(checkpoint)))
        {
            if (rounded.Find(static weight => weight.Format.Kind == WeightKind.Int2) is { } needs && checkpoint is not null)
                throw new InvalidDataException($"{needs.Name}: int2 needs calibration, and {checkpoint} has no tokenizer to read the default text with. Give token ids: a file of JSON lines {{\"ids\": […]}} as calibration file.");
            if (checkpoint is not null)
                options.Logger?.LogWarning("{Checkpoint} has no tokenizer to read the calibration text with: weights are rounded as if all inputs were alike. Give token ids, JSON lines {{\"ids\": […]}}, as calibration file for a better model.", checkpoint);
            return null;
        }
        return CalibrationTokens.Read(options.CalibrationFile, () => checkpoint is not null && ErnieTokenizer.Exists(checkpoint) ? ErnieTokenizer.Load(checkpoint) : null, source.Config);
    }

    private static string Producer { get; } = typeof(ErnieExporter).Assembly.GetName().Version?.ToString(3) ?? "0";
}
