using Ernie.Cli;
using Ernie.Sdk.Export;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Commands about folders: inspect, export, verify, synth.</summary>
public sealed class ExportCommandTests
{
    [Fact]
    public async Task Verify_NamesTheDamagedTensor()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Experts = 4 }.Write(folder.File("checkpoint"));
        var model = folder.File("model");
        Assert.Contains("tensors", (await CommandRun.Async("export", folder.File("checkpoint"), model, "--experts", "fp32")).Succeeded().Out, StringComparison.Ordinal);
        (await CommandRun.Async("verify", model)).Succeeded();
        var tensor = ModelManifest.Read(model).Tensors[^2];
        await using (var weights = new FileStream(Path.Combine(model, ModelManifest.WeightFile), FileMode.Open))
        {
            weights.Position = tensor.Offset + tensor.Bytes - 1;
            var value = weights.ReadByte();
            weights.Position--;
            weights.WriteByte((byte)(value ^ 1));
        }
        var run = await CommandRun.Async("verify", model);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(tensor.Name, run.Error, StringComparison.Ordinal);
        Assert.Equal(1, run.Error.Count(static c => c == '\n'));
        Assert.Empty(run.Out);
    }

    [Fact]
    public async Task Export_Cancelled_LeavesNothing()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint().Write(folder.File("checkpoint"));
        var run = await CommandRun.CancelledAsync("export", folder.File("checkpoint"), folder.File("model"));
        Assert.Equal(ExitCode.Cancelled, run.ExitCode);
        Assert.Equal("ernie: cancelled\n", run.Error);
        Assert.Equal([folder.File("checkpoint")], Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task Export_ToFolderInUse_IsRefused()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint().Write(folder.File("checkpoint"));
        var run = await CommandRun.Async("export", folder.File("checkpoint"), folder.File("checkpoint"));
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("not empty", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Inspect_TellsShapesOfCheckpointAndExport()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Experts = 4 }.Write(folder.File("checkpoint"));
        (await CommandRun.Async("export", folder.File("checkpoint"), folder.File("model"))).Succeeded();
        var checkpoint = (await CommandRun.Async("inspect", folder.File("checkpoint"))).Succeeded();
        var model = (await CommandRun.Async("inspect", folder.File("model"))).Succeeded();
        foreach (var run in new[] { checkpoint, model }) Assert.Contains("2 layers, hidden 32, vocabulary 64", run.Out, StringComparison.Ordinal);
        Assert.Contains("-PT", checkpoint.Out, StringComparison.Ordinal);
        Assert.Contains("experts int4/128, dense int4/128, embedding bf16, head int4/128", model.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Synth_OfOneLayer_Generates()
    {
        using var folder = new TemporaryFolder();
        (await CommandRun.Async("synth", "--shape", "0.3b", "--layers", "1", "--out", folder.File("model"), "--seed", "7")).Succeeded();
        var run = (await CommandRun.Async("""{"ids":[1,2,3]}""", ["generate", folder.File("model"), "--max-tokens", "2", "--ignore-eos"])).Succeeded();
        Assert.Single(run.Lines);
    }

    [Theory]
    [InlineData("0.3b", null, 18, 0)]
    [InlineData("0.3b", 1, 1, 0)]
    [InlineData("21b", null, 28, 27)]
    [InlineData("21b", 1, 1, 1)]
    [InlineData("21b", 3, 3, 2)]
    [InlineData("300b", null, 54, 51)]
    [InlineData("300b", 1, 1, 1)]
    [InlineData("300b", 3, 3, 1)]
    [InlineData("300b", 5, 5, 2)]
    public void SyntheticShape_KeepsAMixtureOfExperts(string name, int? layers, int layerCount, int moeLayerCount)
    {
        var config = SyntheticShape.Of(name, layers);
        Assert.Equal((layerCount, moeLayerCount), (config.LayerCount, config.MoeLayerCount));
        Assert.True(layers is null || config.MoeLayers.Count is 0 || config.MoeLayers.Count == layerCount || name == "0.3b");
    }
}
