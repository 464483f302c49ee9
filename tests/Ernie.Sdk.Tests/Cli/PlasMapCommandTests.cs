using Ernie.Cli;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>The map of blocks that a prompt reads.</summary>
public sealed class PlasMapCommandTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>
{
    private static readonly string s_prompt = $$"""{"ids":[{{string.Join(',', Enumerable.Range(0, 1500).Select(static i => 5 + i * 37 % 1900))}}]}""";

    [Fact]
    public async Task Map_TellsKeptBlocksAndMass_AndDraws()
    {
        using var folder = new TemporaryFolder();
        foreach (var file in new[] { "map.png", "map.svg" })
        {
            string[] perHead = file == "map.svg" ? ["--layer", "1"] : [];
            var run = (await CommandRun.Async(s_prompt, ["plas-map", tiny.Model, "--top-k-left", "2", "--top-k-right", "3", "--plot", folder.File(file), .. perHead])).Succeeded();
            Assert.Contains("1500 tokens in 12 blocks", run.Lines[0], StringComparison.Ordinal);
            // Five layers; blocks 1 to 11 select, for block 1 ends at token 256.
            var rows = run.Lines[2..].Select(static line => line.Split([' ', '%'], StringSplitOptions.RemoveEmptyEntries)).ToArray();
            Assert.Equal(5, rows.Length);
            Assert.All(rows, static row =>
            {
                Assert.Equal("11", row[1]);
                var numbers = row[2..].Select(static text => double.Parse(text, System.Globalization.CultureInfo.InvariantCulture)).ToArray();
                var (kept, most, mass, least) = (numbers[0], numbers[1], numbers[2], numbers[3]);
                Assert.InRange(kept, 15, 100);
                Assert.InRange(most, kept, 100);
                Assert.InRange(mass, 10, 100);
                Assert.InRange(least, 0, mass);
            });
            // Its first layer asks for everything, later ones do not.
            Assert.Contains(rows, static row => row[2] != "100.0");
            Assert.True(new FileInfo(folder.File(file)).Length > 2000);
        }
    }

    [Fact]
    public async Task Map_OfAShortPrompt_SaysThatNothingIsSelected() =>
        Assert.Contains("every block is read", (await CommandRun.Async(s_prompt, ["plas-map", tiny.Model])).Succeeded().Out, StringComparison.Ordinal);

    [Fact]
    public async Task Map_OfAShortPrompt_WritesNoEmptyPicture()
    {
        using var folder = new TemporaryFolder();
        var run = await CommandRun.Async(s_prompt, ["plas-map", tiny.Model, "--plot", folder.File("map.svg")]);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("is not written", run.Error, StringComparison.Ordinal);
        Assert.Contains("--top-k-left", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(folder.Path));
    }

    [Fact]
    public async Task TheReadmesPipes_ShowSomething()
    {
        using var folder = new TemporaryFolder();
        var licence = Path.Combine(SharedData.RepositoryRoot, "LICENSE");
        var ids = (await CommandRun.Async("tokenize", tiny.Model, licence, "--plain")).Succeeded();
        Assert.Equal(ids.Out, (await CommandRun.Async(await File.ReadAllTextAsync(licence, TestContext.Current.CancellationToken), ["tokenize", tiny.Model, "--plain"])).Succeeded().Out);
        Assert.Equal(await File.ReadAllTextAsync(licence, TestContext.Current.CancellationToken), System.Text.Json.JsonDocument.Parse((await CommandRun.Async(ids.Out, ["tokenize", tiny.Model, "--decode"])).Succeeded().Out).RootElement.GetProperty("text").GetString());
        foreach (var line in Documentation.Readme.Blocks("bash").SelectMany(static block => block.Split('\n')).Where(static line => line.Contains("--plain |", StringComparison.Ordinal)))
        {
            string[] command = [.. line[(line.IndexOf("| ernie ", StringComparison.Ordinal) + "| ernie ".Length)..].Split(' ').Select(word => word switch { "artifacts/tiny" => tiny.Model, "artifacts/map.svg" => folder.File("map.svg"), _ => word })];
            var run = (await CommandRun.Async(ids.Out, command)).Succeeded();
            if (command[0] == "plas-map") Assert.True(new FileInfo(folder.File("map.svg")).Length > 2000);
            // Less is read than all, and nothing is said to be too short.
            Assert.Contains("%", run.Out, StringComparison.Ordinal);
            Assert.DoesNotContain("chooses nothing", run.Error, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Comparison_OfAShortText_SaysWhyNothingDiffers() =>
        Assert.Contains("50/60 chooses nothing in texts as short as these", (await CommandRun.Async("{\"ids\":[13,336,1446,331]}", ["compare-attention", tiny.Model, "--attentions", "50/60"])).Succeeded().Error, StringComparison.Ordinal);

    [Fact]
    public async Task Map_OfAMissingLayer_OrNoPrompt_IsRefused()
    {
        var run = await CommandRun.Async(s_prompt, ["plas-map", tiny.Model, "--layer", "5"]);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("layers 0 to 4", run.Error, StringComparison.Ordinal);
        Assert.Equal(ExitCode.BadInput, (await CommandRun.Async("", ["plas-map", tiny.Model])).ExitCode);
        Assert.Equal(ExitCode.Usage, (await CommandRun.Async(s_prompt, ["plas-map", tiny.Model, "--top-k-left", "9", "--top-k-right", "3"])).ExitCode);
    }

    [Fact]
    public async Task Bench_AtDepth_TellsKeptBlocks()
    {
        using var folder = new TemporaryFolder();
        var run = (await CommandRun.Async("bench", tiny.Model, "--depth", "1024,14000", "--runs", "1", "--tokens", "2", "--kv", "int8", "--json", folder.File("depth.json"))).Succeeded();
        using var json = Golden.Open(folder.File("depth.json"));
        var depths = json.RootElement.GetProperty("depths").EnumerateArray().ToArray();
        Assert.Equal(2, depths.Length);
        double Number(int depth, string name) => depths[depth].GetProperty(name).GetDouble();
        // Below the limits everything is read; 14,000 tokens are above both.
        Assert.Equal((8.0, 1.0), (Number(0, "keptBlocks"), Number(0, "keptShare")));
        Assert.Equal(110, Number(1, "blocks"));
        Assert.InRange(Number(1, "keptBlocks"), 3, 110);
        Assert.InRange(Number(1, "keptShare"), 0.1, 0.999);
        foreach (var name in new[] { "decodeSeconds", "decodeBytes", "denseSeconds", "sparseSeconds", "stepSeconds" }) Assert.True(Number(1, name) > 0, name);
        Assert.Contains("Int8 cache", run.Out, StringComparison.Ordinal);
        (await CommandRun.Async("bench", tiny.Model, "--depth", "14000", "--attention", "8/10", "--runs", "1", "--tokens", "2", "--kv", "int8", "--json", folder.File("tight.json"))).Succeeded();
        using var tight = Golden.Open(folder.File("tight.json"));
        Assert.True(tight.RootElement.GetProperty("depths")[0].GetProperty("keptBlocks").GetDouble() < Number(1, "keptBlocks"));
        Assert.Equal(ExitCode.BadInput, (await CommandRun.Async("bench", tiny.Model, "--depth", "200000")).ExitCode);
    }
}
