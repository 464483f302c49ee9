using System.CommandLine;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie inspect</c>: what a folder holds, and what exports of it would take.</summary>
internal static class InspectCommand
{
    public static Command Create(CommandStreams streams)
    {
        var folder = new Argument<string>("FOLDER") { Description = "A checkpoint, or an exported model." };
        var command = new DocumentedCommand("inspect", "Prints a model's shapes and what exports of it take.",
            "Layout, shapes and parameters of a checkpoint or an exported model, and what an export to each precision takes on disk and in memory. Only headers are read.",
            "ernie inspect samples/ernie-tiny-moe")
        { folder };
        command.SetAction(result =>
        {
            foreach (var line in Lines(result.GetValue(folder)!)) streams.Out.WriteLine(line);
            return ExitCode.Success;
        });
        return command;
    }

    private static IReadOnlyList<string> Lines(string folder)
    {
        if (File.Exists(Path.Combine(folder, ModelManifest.FileName))) return ExportedModel(folder, ModelManifest.Read(folder));
        using var checkpoint = Checkpoint.Open(folder);
        return CheckpointReport.Lines(checkpoint);
    }

    private static List<string> ExportedModel(string folder, ModelManifest manifest) =>
    [
        $"Exported model  {folder}",
        $"Name            {manifest.Name}, by {manifest.Producer}, format {manifest.FormatVersion}{(manifest.DebugOutputs ? ", with debug outputs" : "")}",
        $"Precision       {manifest.Formats.Describe(manifest.Config)}; norms and routers fp32",
        $"Weights         {manifest.Tensors.Count} tensors, {Size.Text(manifest.WeightBytes)} in {ModelManifest.WeightFile}",
        .. CheckpointReport.Lines(manifest.Config),
    ];
}
