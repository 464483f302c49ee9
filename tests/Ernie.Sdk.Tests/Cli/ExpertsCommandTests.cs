using System.Globalization;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Cli;

/// <summary><c>ernie experts</c>.</summary>
public sealed class ExpertsCommandTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>
{
    [Theory]
    [InlineData(".png", new byte[] { 0x89, (byte)'P', (byte)'N', (byte)'G' })]
    [InlineData(".SVG", new byte[] { (byte)'<' })]
    public async Task Experts_DrawsLayersAndAPicture(string extension, byte[] signature)
    {
        using var folder = new TemporaryFolder();
        var file = folder.File("experts" + extension);
        var run = (await CommandRun.Async("experts", tiny.Model, "--plot", file)).Succeeded();
        Assert.Contains("2 of 8 experts", run.Lines[0], StringComparison.Ordinal);
        var layers = run.Lines.Where(static line => line.Length > 5 && int.TryParse(line.AsSpan(0, 5), CultureInfo.InvariantCulture, out _)).ToArray();
        Assert.Equal(["1", "2", "3", "4"], layers.Select(static line => line[..5].Trim()));
        Assert.All(layers, static line => Assert.Matches("^    [1-4]  [ ░▒▓█]{8}  +[1-4]\\.[0-9]{2}  [0-7]: ", line));
        Assert.All(layers.Skip(1), static line => Assert.Matches("[0-9.]+ %", line[40..]));
        var bytes = await File.ReadAllBytesAsync(file, TestContext.Current.CancellationToken);
        Assert.Equal(signature, bytes[..signature.Length]);
        Assert.True(bytes.Length > 5000, $"{bytes.Length} bytes are no picture.");
    }

    [Fact]
    public async Task Experts_CountsEachToken()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("ids"), "{\"ids\":[13,336,1446]}\n{\"ids\":[20]}\n", TestContext.Current.CancellationToken);
        // The last token that is generated is not computed any more.
        Assert.Contains(": 10 tokens", (await CommandRun.Async("experts", tiny.Model, "--ids", folder.File("ids"), "--max-tokens", "4")).Succeeded().Lines[0], StringComparison.Ordinal);
        // Long enough for the thread that reads ahead to wake up before the run ends.
        var question = string.Concat(Enumerable.Repeat("Who are you? ", 300)).TrimEnd();
        await File.WriteAllTextAsync(folder.File("text"), question, TestContext.Current.CancellationToken);
        var text = (await CommandRun.Async("experts", tiny.Model, "--text", folder.File("text"), "--expert-prefetch", "on")).Succeeded();
        var prompt = (await CommandRun.Async("experts", tiny.Model, "--prompt", question)).Succeeded();
        Assert.Equal(prompt.Lines[..^1], text.Lines[..^1]);
        Assert.Contains("asked for ahead", text.Lines[^1], StringComparison.Ordinal);
        Assert.DoesNotContain("asked for ahead", prompt.Lines[^1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Experts_OfAModelWithoutExpertsOrTokenizer_SaysSo()
    {
        using var folder = new TemporaryFolder();
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Dense, 3), null, folder.File("dense"), new ErnieExportOptions { ModelName = "plain" }, null, TestContext.Current.CancellationToken);
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Moe, 3), null, folder.File("moe"), new ErnieExportOptions(), null, TestContext.Current.CancellationToken);
        var dense = await CommandRun.Async("experts", folder.File("dense"));
        Assert.Equal((1, "ernie: plain is a dense model: it has no experts.\n"), (dense.ExitCode, dense.Error));
        Assert.Contains("--ids", (await CommandRun.Async("experts", folder.File("moe"), "--prompt", "text")).Error, StringComparison.Ordinal);
        Assert.Contains(": 512 tokens, 3 of 10 experts", (await CommandRun.Async("experts", folder.File("moe"))).Succeeded().Lines[0], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--plot", "map.gif")]
    [InlineData("--prompt", "a", "--text", "b")]
    [InlineData("--expert-prefetch", "maybe")]
    public async Task Experts_WrongUsage(params string[] options) => Assert.Equal(2, (await CommandRun.Async(["experts", tiny.Model, .. options])).ExitCode);
}
