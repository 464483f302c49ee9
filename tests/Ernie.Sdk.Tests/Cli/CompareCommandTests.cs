using System.Text.Json.Nodes;
using Ernie.Cli;

namespace Ernie.Sdk.Tests.Cli;

public sealed class CompareCommandTests
{
    [Fact]
    public async Task QuantisedExports_AreComparedInATable_InJson_AndInAPlot()
    {
        using var folder = new TemporaryFolder();
        var reference = await TinyModel.ExportedAsync();
        var text = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Data", "tiny-eval.jsonl");
        var eight = (await CommandRun.Async("export", TinyModel.Checkpoint, folder.File("int8"), "--experts", "int8", "--dense", "int8", "--calibration", "none")).Succeeded();
        Assert.DoesNotContain("quality", eight.Out, StringComparison.Ordinal);
        var four = (await CommandRun.Async("export", TinyModel.Checkpoint, folder.File("int4"), "--experts", "int4", "--dense", "int4", "--calibration", text)).Succeeded();
        Assert.Contains("held-out tokens", four.Out, StringComparison.Ordinal);
        Assert.Contains("KL divergence", four.Out, StringComparison.Ordinal);

        var table = (await CommandRun.Async("compare", reference, folder.File("int8"), folder.File("int4"), "--plot", folder.File("plot.svg"))).Succeeded();
        Assert.Equal(5, table.Out.TrimEnd().Split('\n').Length);
        Assert.Contains("bits a weight", File.ReadAllText(folder.File("plot.svg")), StringComparison.Ordinal);

        var lines = (await CommandRun.Async("compare", reference, folder.File("int8"), folder.File("int4"), "--json")).Succeeded().Out.TrimEnd().Split('\n').Select(static line => JsonNode.Parse(line)!).ToList();
        Assert.Equal([16, 8.2, 4.2], lines.Select(static line => Math.Round((double)line["bits"]!, 1)));
        Assert.Equal(0, (double)lines[0]["divergence"]!);
        Assert.InRange((double)lines[1]["divergence"]!, 1e-6, 0.01);
        Assert.InRange((double)lines[2]["divergence"]!, (double)lines[1]["divergence"]!, 1);
        Assert.InRange((double)lines[2]["agreement"]!, 0.5, (double)lines[1]["agreement"]!);
    }

    [Fact]
    public async Task WrongUsage_IsToldFromBadFiles()
    {
        var model = await TinyModel.ExportedAsync();
        Assert.Equal(ExitCode.Usage, (await CommandRun.Async("compare", model, model, "--text", "a", "--ids", "b")).ExitCode);
        Assert.Equal(ExitCode.Usage, (await CommandRun.Async("compare", model, model, "--plot", "a.pdf")).ExitCode);
        Assert.Equal(ExitCode.BadInput, (await CommandRun.Async("compare", model, model, "--text", "/nowhere.txt")).ExitCode);
    }
}
