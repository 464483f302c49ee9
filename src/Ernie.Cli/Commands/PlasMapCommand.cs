using System.CommandLine;
using System.Globalization;
using Ernie.Cli.Measuring;
using Ernie.Sdk;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie plas-map</c>: which blocks of the cache a prompt reads.</summary>
internal static class PlasMapCommand
{
    public static Command Create(CommandStreams streams)
    {
        var input = CommonOptions.Input("A JSON line {\"ids\": […]}; only the first is read.");
        var defaults = new ErnieSparseAttention();
        var left = new Option<int>("--top-k-left") { Description = "Fewest blocks that a query chooses.", DefaultValueFactory = _ => defaults.EncoderTopKLeft, HelpName = "N" }.InRange(1, 1 << 20);
        var right = new Option<int>("--top-k-right") { Description = "Most blocks that a query chooses.", DefaultValueFactory = _ => defaults.EncoderTopKRight, HelpName = "N" }.InRange(1, 1 << 20);
        var layer = new Option<int?>("--layer") { Description = "Draw the heads of this layer instead of all layers.", HelpName = "N" };
        var plot = new Option<string?>("--plot") { Description = "Draws the maps: FILE.svg or FILE.png.", HelpName = "FILE" };
        plot.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && !ExpertPlot.CanWrite(result.Tokens[0].Value)) result.AddError("--plot must end with .svg or .png.");
        });
        var command = new DocumentedCommand("plas-map",
            "Shows which blocks of the cache a prompt reads under sparse attention.",
            $"""
            Runs a prompt and prints for each layer, over those blocks of 128 prompt tokens that select:
              kept    blocks that are read, of those that dense attention reads; mean, and that of the head that reads most
              mass    share of dense attention's softmax that lies in them, over {PlasMapKernels.SampledTokens} tokens of each block; mean, and that of the head that loses most
            --plot draws a map for each layer, or with --layer for each head of one: a row a block of the prompt, a column a block that it may read, yellow where it does.
            """,
            "ernie tokenize model report.txt --plain | ernie plas-map model --plot map.png", "ernie plas-map samples/ernie-tiny-moe prompt.jsonl --top-k-left 4 --top-k-right 6 --layer 2 --plot heads.svg");
        var model = ModelOptions.AddTo(command, input);
        foreach (var option in new Option[] { left, right, layer, plot }) command.Add(option);
        command.Validators.Add(result =>
        {
            if (result.GetValue(left) > result.GetValue(right)) result.AddError("--top-k-left must not exceed --top-k-right.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            using var lines = JsonLineReader.Open(result.GetValue(input), streams);
            JsonLine? first = null;
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                first = line;
                break;
            }
            if (first is not { } prompt) throw new InvalidDataException("There is no prompt: give a JSON line {\"ids\": […]}.");
            var ids = prompt.Ids();
            var attention = new ErnieSparseAttention { EncoderTopKLeft = result.GetValue(left), EncoderTopKRight = result.GetValue(right) };
            PlasMapKernels? map = null;
            string name;
            using (var loaded = await model.LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken, wrap: kernels => map = new PlasMapKernels(kernels), attention: attention).ConfigureAwait(false))
            {
                name = loaded.ModelId;
                var generation = new ErnieGenerationOptions { MaxTokens = 1, IgnoreStopTokens = true, Temperature = 0 };
                try
                {
                    await foreach (var _ in loaded.GenerateAsync(ids, generation, cancellationToken).ConfigureAwait(false))
                    {
                    }
                }
                catch (ArgumentException e)
                {
                    throw prompt.Error(ErrorLine.Of(e), e);
                }
            }
            var layers = map!.Layers;
            if (result.GetValue(layer) is { } chosen && (chosen < 0 || chosen >= layers.Count)) throw new InvalidDataException($"--layer: {name} has layers 0 to {layers.Count - 1}.");
            foreach (var line in Lines(name, ids.Count, attention.Limits(), layers)) await streams.Out.WriteLineAsync(line).ConfigureAwait(false);
            if (result.GetValue(plot) is { } file)
            {
                if (IsDense(layers)) throw new InvalidDataException($"{file} is not written, for the map would be all of one colour. Give a prompt of more than {attention.Limits().EncoderLimit} tokens, or choose fewer blocks, such as --top-k-left 2 --top-k-right 3.");
                if (result.GetValue(layer) is { } drawn) PlasMapPlot.SaveHeads(layers[drawn], drawn, file);
                else PlasMapPlot.SaveLayers(layers, file);
            }
            return ExitCode.Success;
        });
        return command;
    }

    private static bool IsDense(IReadOnlyList<IReadOnlyList<PlasMapRow>> layers) => layers.All(static rows => rows.All(static row => row.Kept is null));

    private static IEnumerable<string> Lines(string name, int tokens, SparseLimits limits, IReadOnlyList<IReadOnlyList<PlasMapRow>> layers)
    {
        var blocks = layers[0].Count;
        yield return $"{name}: {tokens} tokens in {blocks} blocks; each query chooses {limits.EncoderTopKLeft} to {limits.EncoderTopKRight}, blocks that end before token {limits.EncoderLimit} read all.";
        if (IsDense(layers))
        {
            yield return "The prompt is too short for anything to be selected: every block is read.";
            yield break;
        }
        yield return "";
        yield return "layer  selecting     kept      most     mass     least";
        foreach (var (layer, rows) in layers.Index())
        {
            var sparse = rows.Where(static row => row.Kept is not null).ToArray();
            if (sparse.Length == 0)
            {
                yield return $"{layer,5}  {"dense",9}";
                continue;
            }
            // Shares of the sums: a block far back in the prompt reads more than one at its beginning.
            double all = sparse.Sum(static row => row.Block + 1);
            double[] kept = [.. Enumerable.Range(0, sparse[0].Mass.Length).Select(head => sparse.Sum(row => row.Kept![head].Length) / all)];
            double[] mass = [.. Enumerable.Range(0, kept.Length).Select(head => sparse.Average(row => row.Mass[head]))];
            yield return string.Create(CultureInfo.InvariantCulture, $"{layer,5}  {sparse.Length,9}  {kept.Average(),7:P1}  {kept.Max(),8:P1}  {mass.Average(),7:P1}  {mass.Min(),8:P1}");
        }
    }
}
