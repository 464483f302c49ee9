using System.Globalization;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>What <c>ernie inspect</c> says about a checkpoint, as lines of plain text.</summary>
internal static class CheckpointReport
{
    /// <summary>Exports whose sizes are told: experts and everything else.</summary>
    private static readonly (WeightFormat Experts, WeightFormat Dense)[] Exports =
    [
        (WeightFormat.Float32, WeightFormat.Float32), (WeightFormat.BFloat16, WeightFormat.BFloat16), (WeightFormat.Int8(128), WeightFormat.Int8(128)), (WeightFormat.Int4(128), WeightFormat.Int4(128)),
        (WeightFormat.Int4(0), WeightFormat.Int8(0)), (WeightFormat.Int2, WeightFormat.Int4(128)),
    ];

    public static IReadOnlyList<string> Lines(Checkpoint checkpoint)
    {
        var lines = new List<string>
        {
            $"Checkpoint      {checkpoint.Folder}",
            $"Files           {string.Join(", ", checkpoint.FileNames.Take(4))}{(checkpoint.FileNames.Count() is > 4 and var n ? $", … ({n})" : "")}",
            $"Layout          {Describe(checkpoint.Layout)}{(checkpoint.QuantisedMatrices.Count > 0 ? "; quantised (2Bits)" : "")}",
        };
        AddShapes(lines, checkpoint.Config);
        lines.Add("Stored          " + string.Join(", ", checkpoint.ElementTypes.Select(static t => $"{t.ElementType}: {t.Tensors} tensors, {Bytes(t.Bytes)}")));
        if (checkpoint.QuantisedMatrices.Count > 0) lines.Add("Quantised       " + string.Join(", ", checkpoint.QuantisedMatrices.Select(static f => $"{Describe(f.Key)}: {f.Value} matrices")));
        lines.AddRange(checkpoint.Notes.Select(static (note, i) => $"{(i == 0 ? "Notes" : ""),-16}{note}"));
        lines.Add("");
        var formats = ExportFormats.Of(checkpoint, new ErnieExportOptions());
        AddSizes(lines, checkpoint.Config, formats);
        lines.Add($"The default     {formats.Describe(checkpoint.Config)}; {Calibration(checkpoint)}");
        return lines;
    }

    /// <summary>The part that needs no weights: shapes, parameters and sizes.</summary>
    public static IReadOnlyList<string> Lines(ErnieConfig config)
    {
        var lines = new List<string>();
        AddShapes(lines, config);
        lines.Add("");
        AddSizes(lines, config, null);
        return lines;
    }

    private static string Calibration(Checkpoint checkpoint) =>
        checkpoint.QuantisedMatrices.Count > 0 ? "stored integers are kept"
        : ErnieTokenizer.Exists(checkpoint.Folder) ? "fitted to the calibration text that comes with the library"
        : "not fitted to a calibration text, because there is no tokenizer: name token ids with --calibration";

    private static void AddShapes(List<string> lines, ErnieConfig config)
    {
        var count = ParameterCount.Of(config);
        lines.Add($"Model           {config.ModelType}, {config.LayerCount} layers, hidden {config.HiddenSize}, vocabulary {config.VocabSize}, embedding {(config.TieWordEmbeddings ? "tied" : "untied")}");
        lines.Add($"Attention       {config.HeadCount} heads on {config.KvHeadCount} of {config.HeadDim}, context {config.ContextLength}, rope theta {Text(config.RopeTheta)}");
        if (config.HasAttentionGates) lines.Add($"Gates           learned, in {Layers(config.LayerCount - 1)}: sparse attention summarises blocks by them in prefill; the last layer prefills densely");
        if (config.MoeLayerCount < config.LayerCount) lines.Add($"Dense           {Layers(config.LayerCount - config.MoeLayerCount)} of width {config.IntermediateSize}");
        if (config.MoeLayerCount > 0)
        {
            lines.Add($"Experts         {Layers(config.MoeLayerCount)}, {config.ExpertsPerToken} of {config.ExpertCount} experts of width {config.ExpertIntermediateSize}, {config.SharedExpertCount} shared");
        }
        lines.Add($"Parameters      {Billions(count.Total)}, of which {Billions(count.ActivePerToken)} read for one token");
    }

    /// <param name="lines">Receives the table.</param>
    /// <param name="config">The architecture.</param>
    /// <param name="formats">What an export has by default, which is listed first; null for a model that is exported already.</param>
    private static void AddSizes(List<string> lines, ErnieConfig config, ModelFormats? formats)
    {
        var shortContext = Math.Min(4096, config.ContextLength);
        lines.Add($"{"Export",-34}{"on disk",12}{$"memory at {shortContext}",20}{$"memory at {config.ContextLength}",20}");
        if (formats is not null) AddSize(formats.Exceptions.Count > 0 || formats.Head != formats.Dense ? "default: as stored" : $"default: {Name(formats.Experts, formats.Dense)}", formats);
        foreach (var (experts, dense) in Exports)
        {
            if (config.MoeLayerCount == 0 && experts != dense) continue;
            var other = ModelFormats.Of(experts, dense);
            if (other.Problem(config) is null) AddSize(Name(experts, dense), other);
        }
        var cache = MemoryPlan.For(config, ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.BFloat16), KvElementType.BFloat16, KvBlockLayout.BlockSize);
        lines.Add($"Memory is for one sequence with a bf16 cache ({Bytes(cache.CacheBytes)} for {KvBlockLayout.BlockSize} tokens); weights are mapped from the file and shared by processes.");

        void AddSize(string name, ModelFormats formats)
        {
            var near = MemoryPlan.For(config, formats, KvElementType.BFloat16, shortContext);
            var far = MemoryPlan.For(config, formats, KvElementType.BFloat16, config.ContextLength);
            lines.Add($"{name,-34}{Bytes(near.WeightBytes),12}{Bytes(near.TotalBytes),20}{Bytes(far.TotalBytes),20}");
        }

        static string Name(WeightFormat experts, WeightFormat dense) => experts == dense ? dense.ToString() : $"{experts}, dense {dense}";
    }

    private static string Describe(CheckpointLayout layout) => layout switch
    {
        CheckpointLayout.Paddle => "-Paddle: q|k|v and gate|up fused, matrices [inputs, outputs]",
        CheckpointLayout.FusedExperts => "transformers v5: experts of a layer in two stacked tensors",
        _ => "-PT: matrices [outputs, inputs]",
    };

    private static string Describe(FastDeployFormat format) => format switch
    {
        FastDeployFormat.Wint8 => "WINT8 in GPU byte order",
        FastDeployFormat.Wint4 => "WINT4 in GPU byte order",
        _ => "WINT2 in plain order",
    };

    private static string Layers(int count) => count == 1 ? "1 layer" : $"{count} layers";

    private static string Billions(long count) => count >= 100_000_000 ? Text(Math.Round(count / 1e9, 3)) + " B" : Text(Math.Round(count / 1e6, 2)) + " M";

    private static string Bytes(long bytes) => bytes switch
    {
        >= 1L << 30 => Text(Math.Round(bytes / (double)(1L << 30), 2)) + " GiB",
        >= 1L << 20 => Text(Math.Round(bytes / (double)(1L << 20), 1)) + " MiB",
        _ => Text(Math.Round(bytes / 1024.0, 1)) + " KiB",
    };

    private static string Text(double value) => value.ToString(CultureInfo.InvariantCulture);
}
