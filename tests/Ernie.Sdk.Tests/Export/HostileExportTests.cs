using System.Buffers.Binary;
using Ernie.Cli;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Cli;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Calibrated exports of checkpoints, and with options, that are at the edge or beyond it.</summary>
public sealed class HostileExportTests(ITestOutputHelper output)
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static TinyCheckpoint Small => new() { Experts = 4, SharedExperts = 1, Vocabulary = 101 };

    [Fact]
    public async Task TheDefault_IsInt4_AndSaysWhereNothingCouldBeFitted()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        var fitted = (await CommandRun.Async("export", SmallExport.Checkpoint, folder.File("fitted"))).Succeeded();
        Assert.Empty(fitted.Error);
        Assert.Contains("tokens of default text", fitted.Out, StringComparison.Ordinal);
        Small.Write(folder.File("bare"));
        var bare = (await CommandRun.Async("export", folder.File("bare"), folder.File("out"))).Succeeded();
        Assert.Contains("has no tokenizer", bare.Error, StringComparison.Ordinal);
        Assert.Null(QualityFile.Find(folder.File("out")));
        foreach (var model in new[] { "fitted", "out" })
        {
            var formats = ModelManifest.Read(folder.File(model)).Formats;
            Assert.Equal((WeightFormat.Int4(128), WeightFormat.Int4(128), WeightFormat.Int4(128)), (formats.Experts, formats.Dense, formats.Head));
        }
    }

    [Theory]
    [InlineData(128)]
    [InlineData(64)]
    [InlineData(ErnieExportOptions.PerChannel)]
    public async Task OddWidths_AreFittedToo(int group)
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101);
        // No width is a multiple of a group or a vector, no row count one of a panel.
        new TinyCheckpoint { Hidden = 72, Heads = 3, KvHeads = 1, HeadDim = 22, Intermediate = 150, Experts = 3, ExpertIntermediate = 21, SharedExperts = 1, Vocabulary = 101 }.Write(folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), new ErnieExportOptions { GroupSize = group, CalibrationFile = ids.Path }, cancellationToken: Token);
        await ErnieExporter.VerifyAsync(folder.File("model"), cancellationToken: Token);
        Assert.All(QualityFile.Find(folder.File("model"))!.Tensors, static t => Assert.InRange(t.WeightedError, 1e-4, 0.03));
    }

    [Theory]
    [InlineData(6, 80, 48)]
    [InlineData(2, 2, 4096)]
    [InlineData(2, 700, 1)]
    public async Task ShortContextsAndShortTexts_AreEnough_OrRefused(int sequences, int length, int context)
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101, sequences, length);
        (Small with { ContextLength = context }).Write(folder.File("checkpoint"));
        var run = ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), new ErnieExportOptions { CalibrationFile = ids.Path }, cancellationToken: Token);
        if (context == 1)
        {
            Assert.Contains("at least two sequences", (await Assert.ThrowsAsync<InvalidDataException>(() => run)).Message, StringComparison.Ordinal);
            return;
        }
        await run;
        Assert.InRange(QualityFile.Find(folder.File("model"))!.Tokens, 1, 200);
    }

    [Fact]
    public async Task ActivationsBeyondFloat_AreNamed()
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101);
        Small.Write(folder.File("checkpoint"), null, static tensors => Scale(tensors, "model.layers.1.input_layernorm.weight", 1e25f));
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), new ErnieExportOptions { CalibrationFile = ids.Path }, cancellationToken: Token));
        output.WriteLine(e.Message);
        Assert.Contains(TensorNames.Query(1), e.Message, StringComparison.Ordinal);
        Assert.Equal([folder.File("checkpoint")], Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task APerplexityBeyondAllNumbers_IsReported()
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101);
        Small.Write(folder.File("checkpoint"), null, static tensors => Scale(tensors, "model.norm.weight", 1e4f));
        var run = (await CommandRun.Async("export", folder.File("checkpoint"), folder.File("model"), "--calibration", ids.Path)).Succeeded();
        Assert.Contains("perplexity Infinity", run.Out, StringComparison.Ordinal);
        Assert.Equal(double.PositiveInfinity, QualityFile.Find(folder.File("model"))!.Perplexity);
        var lines = (await CommandRun.Async("compare", folder.File("model"), folder.File("model"), "--ids", ids.Path, "--json")).Succeeded();
        Assert.Contains("\"perplexity\":\"Infinity\"", lines.Out, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(new[] { 7 }, "Layer 7 has no routed experts")]
    [InlineData(new[] { -1 }, "Layer -1 has no routed experts")]
    [InlineData(new[] { 0 }, "Layer 0 has no routed experts")]
    public async Task Int4Layers_ThatAreNone_AreRefused(int[] layers, string problem)
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101);
        new TinyCheckpoint { Hidden = 128, Experts = 4, ExpertIntermediate = 128, Vocabulary = 101 }.Write(folder.File("checkpoint"));
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int2, Int4Layers = layers, CalibrationFile = ids.Path };
        Assert.Contains(problem, (await Assert.ThrowsAsync<NotSupportedException>(() => ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), options, cancellationToken: Token))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Int2WithScalesPerChannel_AndInt4Layers_KeepsEachFormat()
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(101);
        new TinyCheckpoint { Hidden = 128, Experts = 4, ExpertIntermediate = 128, Layers = 3, FirstMoeLayer = 0, Vocabulary = 101 }.Write(folder.File("checkpoint"));
        (await CommandRun.Async("export", folder.File("checkpoint"), folder.File("model"), "--experts", "int2", "--group", "channel", "--int4-layers", "0,2", "--calibration", ids.Path)).Succeeded();
        var formats = ModelManifest.Read(folder.File("model")).Formats;
        Assert.Equal([WeightFormat.Int4(0), WeightFormat.Int2, WeightFormat.Int4(0)], Enumerable.Range(0, 3).Select(layer => formats.OfExperts(ErnieGraph.ExpertDown(layer))));
        Assert.Equal(WeightFormat.Int4(0), formats.Dense);
        Assert.Equal(ExitCode.BadInput, (await CommandRun.Async("export", folder.File("checkpoint"), folder.File("other"), "--int4-layers", "0")).ExitCode);
    }

    [Fact]
    public void AnItemThatFails_EndsTheLoopWithItsOwnException()
    {
        foreach (var runner in new IParallelRunner[] { SerialRunner.Instance, new TaskRunner(3) })
            Assert.Throws<FormatException>(() => runner.For(100, static i => { if (i == 50) throw new FormatException(); }));
        using var cancellation = new CancellationTokenSource();
        cancellation.Cancel();
        Assert.ThrowsAny<OperationCanceledException>(() => new TaskRunner(2, cancellation.Token).For(10, static _ => { }));
    }

    private static void Scale(List<EncodedTensor> tensors, string name, float factor)
    {
        var tensor = tensors.Single(t => t.Name == name);
        for (var i = 0; i < tensor.Data.Length; i += 2)
        {
            var value = BitConverter.UInt32BitsToSingle((uint)BinaryPrimitives.ReadUInt16LittleEndian(tensor.Data.AsSpan(i)) << 16);
            BinaryPrimitives.WriteUInt16LittleEndian(tensor.Data.AsSpan(i), (ushort)(BitConverter.SingleToUInt32Bits(value * factor) >> 16));
        }
    }
}
