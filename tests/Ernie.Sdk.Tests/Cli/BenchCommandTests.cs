using System.Text.Json;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>What <c>ernie bench</c> and <c>ernie bench-layer</c> report. No figure is asserted that depends on the machine's speed.</summary>
public sealed class BenchCommandTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>
{
    [Fact]
    public async Task BenchRequests_CancelsAsManyAsItIsTold()
    {
        // Answers of this model are over before most of the moments that are drawn at first.
        var run = (await CommandRun.Async("bench-requests", await TinyModel.ExportedAsync(), "--streams", "1", "--tokens", "8", "--prompt", "4", "--cancels", "7")).Succeeded();
        Assert.Matches(@"from a cancel to the freed memory .* 7\n", run.Out);
    }

    [Fact]
    public async Task Bench_WritesTableJsonAndPicture()
    {
        using var folder = new TemporaryFolder();
        var run = (await CommandRun.Async("bench", tiny.Model, "--runs", "1", "--tokens", "4", "--sequences", "1,3", "--prefill", "20,140", "--json", folder.File("b.json"), "--plot", folder.File("b.svg"))).Succeeded();
        Assert.Contains("ernie-tiny-moe", run.Lines[0], StringComparison.Ordinal);
        using var json = JsonDocument.Parse(await File.ReadAllTextAsync(folder.File("b.json"), TestContext.Current.CancellationToken));
        var root = json.RootElement;
        Assert.Equal([1, 3], root.GetProperty("decode").EnumerateArray().Select(static d => d.GetProperty("sequences").GetInt32()));
        Assert.Equal([20, 140], root.GetProperty("prefill").EnumerateArray().Select(static p => p.GetProperty("tokens").GetInt32()));
        foreach (var decode in root.GetProperty("decode").EnumerateArray())
        {
            Assert.True(decode.GetProperty("tokensPerSecond").GetDouble() > 0);
            // Two of eight experts a token: one sequence reads exactly these, several read between these and all they choose.
            var sequences = decode.GetProperty("sequences").GetInt32();
            Assert.InRange(decode.GetProperty("distinctExperts").GetDouble(), 2, 2 * sequences);
            Assert.InRange(decode.GetProperty("touchedExperts").GetDouble(), decode.GetProperty("distinctExperts").GetDouble(), 8);
        }
        Assert.True(root.GetProperty("before").GetProperty("readAllThreads").GetDouble() > 0);
        Assert.True(root.GetProperty("memory").GetProperty("peakPrivate").GetInt64() > 0);
        var picture = await File.ReadAllTextAsync(folder.File("b.svg"), TestContext.Current.CancellationToken);
        Assert.StartsWith("<?xml", picture, StringComparison.Ordinal);
        Assert.Contains("<svg", picture, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--sequences", "0")]
    [InlineData("--prefill", "1,x")]
    [InlineData("--plot", "picture.jpg")]
    public async Task Bench_WrongUsage_IsRefusedBeforeLoading(string option, string value)
    {
        var run = await CommandRun.Async("bench", "no-such-model", option, value);
        Assert.Equal(2, run.ExitCode);
        Assert.Contains(option, run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("bench", "--json", "b.json")]
    [InlineData("bench", "--plot", "b.svg")]
    [InlineData("bench-requests", "--json", "b.json")]
    public async Task AFileThatCannotBeWritten_IsNamedBeforeLoading(string command, string option, string file)
    {
        using var folder = new TemporaryFolder();
        var run = await CommandRun.Async(command, "no-such-model", option, folder.File("missing/" + file));
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith($"ernie: {folder.File("missing/" + file)} cannot be written: there is no folder", run.Error, StringComparison.Ordinal);
        // One that can be is not there before it is written.
        Assert.Contains("no-such-model", (await CommandRun.Async(command, "no-such-model", option, folder.File(file))).Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task BenchLayer_ChecksAndTimesOursAndOnnxRuntimes()
    {
        using var folder = new TemporaryFolder();
        (await CommandRun.Async("bench-layer", "--model", tiny.Model, "--formats", "bf16,int4/32,int8/128", "--tokens", "1,5", "--runs", "1", "--rotate", "1", "--json", folder.File("l.json"), "--plot", folder.File("l.png"))).Succeeded();
        using var json = JsonDocument.Parse(await File.ReadAllTextAsync(folder.File("l.json"), TestContext.Current.CancellationToken));
        Assert.Empty(json.RootElement.GetProperty("absent").EnumerateArray());
        var rows = json.RootElement.GetProperty("rows").EnumerateArray().ToArray();
        // Both layers, twice: three formats of ours and, in blocks of 32 and 128, two widths of theirs.
        foreach (var layer in rows.GroupBy(static r => r.GetProperty("layer").GetString()))
        {
            Assert.Equal(2 * 3, layer.Count(static r => r.GetProperty("isOurs").GetBoolean()));
            Assert.Contains(layer, static r => !r.GetProperty("isOurs").GetBoolean());
        }
        Assert.Equal(2, rows.Select(static r => r.GetProperty("layer").GetString()).Distinct().Count());
        // A row is only there if its check passed; ours is far closer to the reference than 8-bit activations alone would be.
        Assert.All(rows, static r => Assert.InRange(r.GetProperty("difference").GetDouble(), 0, r.GetProperty("isOurs").GetBoolean() ? 1e-3 : 0.05));
        Assert.Equal([0x89, (byte)'P', (byte)'N', (byte)'G'], File.ReadAllBytes(folder.File("l.png"))[..4]);
    }

    [Fact]
    public async Task BenchLayer_CopiesSmallLayersOfExperts_UpToTheBytesThatRotate()
    {
        using var folder = new TemporaryFolder();
        (await CommandRun.Async("bench-layer", "--model", tiny.Model, "--layers", "experts", "--tokens", "1", "--runs", "1", "--rotate", "16", "--json", folder.File("l.json"))).Succeeded();
        using var json = JsonDocument.Parse(await File.ReadAllTextAsync(folder.File("l.json"), TestContext.Current.CancellationToken));
        var rows = json.RootElement.GetProperty("rows").EnumerateArray().ToArray();
        Assert.Contains(rows, static r => r.GetProperty("isOurs").GetBoolean());
        Assert.Contains(rows, static r => !r.GetProperty("isOurs").GetBoolean());
        Assert.All(rows, static r => Assert.InRange(r.GetProperty("rotatingBytes").GetInt64(), 8 << 20, 20 << 20));
        // A token reads some experts of one copy.
        Assert.All(rows, static r => Assert.InRange(r.GetProperty("bytes").GetDouble(), 1, 1 << 20));
    }

    [Fact]
    public async Task BenchLayer_UnknownFormat_IsWrongUsage()
    {
        var run = await CommandRun.Async("bench-layer", "--formats", "int3");
        Assert.Equal(2, run.ExitCode);
        Assert.Contains("int3", run.Error, StringComparison.Ordinal);
    }
}
