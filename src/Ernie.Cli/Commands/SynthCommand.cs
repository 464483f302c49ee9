using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Ernie.Sdk;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie synth</c>: a model of real size without a download.</summary>
internal static class SynthCommand
{
    public static Command Create(CommandStreams streams)
    {
        var shape = new Option<string>("--shape") { Description = "Architecture of a released model.", Required = true }.AcceptOnlyFromAmong(SyntheticShape.Names);
        var layers = new Option<int?>("--layers")
        {
            Description = "Take the first N layers. If none of them would be a mixture of experts (1 layer of 21b; 1, 2 or 3 of 300b), the last one is made one. [default: all]",
            HelpName = "N",
        };
        var output = new Option<string>("--out") { Description = "Folder to create.", Required = true, HelpName = "DIR" };
        var seed = new Option<int>("--seed") { Description = "Seed of the weights.", DefaultValueFactory = static _ => 0, HelpName = "N" };
        var experts = CommonOptions.Experts("[default: int4]");
        var dense = CommonOptions.Dense("[default: int4]");
        var group = CommonOptions.Group();
        var command = new DocumentedCommand("synth", "Writes a model with random weights.",
            "An exported model of a released shape without a tokenizer, for trying sizes and speeds: int4 in groups of 128 unless options say otherwise. The same seed gives the same bytes.",
            "ernie synth --shape 0.3b --layers 2 --out synthetic", """echo '{"ids": [1, 2, 3]}' | ernie generate synthetic --max-tokens 16 --ignore-eos""")
        { shape, layers, output, seed, experts, dense, group };
        command.Validators.Add(result =>
        {
            if (result.GetValue(layers) is { } count && result.GetValue(shape) is { } name && SyntheticShape.Names.Contains(name) && SyntheticShape.Of(name, null).LayerCount is var most && (count < 1 || count > most))
                result.AddError($"--layers must lie between 1 and {most} for {name}.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            var name = result.GetValue(shape)!;
            var config = SyntheticShape.Of(name, result.GetValue(layers));
            var folder = result.GetValue(output)!;
            var options = new ErnieExportOptions
            {
                Experts = CommonOptions.PrecisionOf(result.GetValue(experts)),
                Dense = CommonOptions.PrecisionOf(result.GetValue(dense)),
                GroupSize = CommonOptions.GroupOf(result.GetValue(group)!),
                ModelName = string.Create(CultureInfo.InvariantCulture, $"random-{name}-{config.LayerCount}-layers"),
            };
            var source = new SyntheticWeights(config, result.GetValue(seed));
            var clock = Stopwatch.StartNew();
            using (var progress = new ProgressLine(streams, "synth")) await Task.Run(() => ErnieExporter.Export(source, null, folder, options, progress, cancellationToken), cancellationToken).ConfigureAwait(false);
            await streams.Out.WriteLineAsync(ExportCommand.Summary(folder, clock.Elapsed)).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }
}
