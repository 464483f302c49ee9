using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

public class CheckpointReportTests
{
    [Fact]
    public void Report_OfTheSampleModel()
    {
        using var checkpoint = Checkpoint.Open(Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe"));
        var lines = CheckpointReport.Lines(checkpoint);
        Assert.Contains("Layout          -PT: matrices [outputs, inputs]", lines);
        Assert.Contains("Model           ernie4_5_moe, 5 layers, hidden 256, vocabulary 2048, embedding tied", lines);
        Assert.Contains("Experts         4 layers, 2 of 8 experts of width 128, 1 shared", lines);
        Assert.Contains(lines, line => line.StartsWith("Parameters      5.45 M", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("Stored          BF16: ", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("default: int4/128                      3.7 MiB", StringComparison.Ordinal));
        Assert.Equal("The default     experts int4/128, dense int4/128, embedding bf16, head int4/128; fitted to the calibration text that comes with the library", lines[^1]);
        Assert.Contains(lines, line => line.StartsWith("bf16                                  10.4 MiB", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("int4/channel, dense int8/channel       4.8 MiB", StringComparison.Ordinal));
    }

    [Fact]
    public void Report_OfQuantisedAndBareCheckpoints_SaysWhatTheDefaultExportHolds()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.File("quantised"));
        using var quantised = Checkpoint.Open(folder.File("quantised"));
        var lines = CheckpointReport.Lines(quantised);
        Assert.Contains(lines, static line => line.StartsWith("default: as stored", StringComparison.Ordinal));
        Assert.Contains("int4/channel (2 matrices)", lines[^1], StringComparison.Ordinal);
        Assert.EndsWith("stored integers are kept", lines[^1], StringComparison.Ordinal);
        new TinyCheckpoint().Write(folder.File("bare"));
        using var bare = Checkpoint.Open(folder.File("bare"));
        Assert.Contains("no tokenizer", CheckpointReport.Lines(bare)[^1], StringComparison.Ordinal);
    }

    [Fact]
    public void Report_OfAReleasedShape()
    {
        var lines = CheckpointReport.Lines(ReleasedShapes.Medium21B);
        Assert.Contains(lines, line => line.StartsWith("Parameters      21.8", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.Contains("memory at 131072", StringComparison.Ordinal));
    }

    [Fact]
    public void GenerationDefaults_AreRead()
    {
        var defaults = GenerationDefaults.Load(Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe"));
        Assert.Equal([2, 16], defaults.EosTokenIds);
        Assert.Equal((false, 1.0, 1.0, 256, 1, 0), (defaults.DoSample, defaults.Temperature, defaults.TopP, defaults.MaxNewTokens, defaults.BosTokenId, defaults.PadTokenId));
        using var folder = new TemporaryFolder();
        Assert.Null(GenerationDefaults.Load(folder.Path).Temperature);
        Assert.Throws<InvalidDataException>(() => GenerationDefaults.Parse("""{"temperature":-1}"""u8, "generation_config.json"));
        Assert.Throws<InvalidDataException>(() => GenerationDefaults.Parse("""{"top_p":"x"}"""u8, "generation_config.json"));
    }
}
