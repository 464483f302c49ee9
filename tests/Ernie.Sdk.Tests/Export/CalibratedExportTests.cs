using System.Text.Json;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Exports of the shipped trained model under a calibration.</summary>
public sealed class CalibratedExportTests(ITestOutputHelper output)
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Report_SaysWhatTheModelsThemselvesShow()
    {
        using var folder = new TemporaryFolder();
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int4, GroupSize = 64 };
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), options, cancellationToken: Token);
        await ErnieExporter.VerifyAsync(folder.File("model"), cancellationToken: Token);
        var quality = QualityFile.Find(folder.File("model"))!;
        Assert.Contains(ModelManifest.Read(folder.File("model")).Files, static file => file.Name == QualityReport.FileName);

        var tokens = CalibrationTokens.Read(null, () => ErnieTokenizer.Load(TinyModel.Checkpoint), ModelManifest.Read(folder.File("model")).Config);
        using var source = await TinyModel.LoadAsync();
        using var quantised = await ErnieModel.LoadAsync(folder.File("model"), new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 64 << 20, Threads = 2 }, cancellationToken: Token);
        var sum = new DivergenceSum();
        var first = 0;
        foreach (var length in tokens.HeldOutLengths)
        {
            var ids = tokens.HeldOutIds[first..(first + length)];
            var (a, b) = (await LoadedModels.LogitsAsync(source, ids, Token), await LoadedModels.LogitsAsync(quantised, ids, Token));
            for (var t = 0; t < length - 1; t++) sum.Add(Row(a, t), Row(b, t), ids[t + 1]);
            first += length;
            ReadOnlySpan<float> Row(float[] logits, int t) => logits.AsSpan(t * source.VocabularySize, source.VocabularySize);
        }
        output.WriteLine($"{quality.Tokens} tokens: perplexity {quality.Perplexity:F4} of {quality.SourcePerplexity:F4}, divergence {quality.Divergence:F5}, agreement {quality.Agreement:P2}; the models: {sum.Perplexity:F4} of {sum.SourcePerplexity:F4}, {sum.Mean:F5}, {sum.Agreement:P2}");
        Assert.Equal(sum.Tokens, quality.Tokens);
        Assert.Equal(sum.SourcePerplexity, quality.SourcePerplexity, 1e-4 * sum.SourcePerplexity);
        Assert.Equal(sum.Perplexity, quality.Perplexity, 2e-3 * sum.Perplexity);
        Assert.Equal(sum.Mean, quality.Divergence, 0.03 * sum.Mean);
        Assert.InRange(quality.Divergence, 1e-5, 0.2);
        Assert.Equal(ModelManifest.Read(folder.File("model")).Tensors.Count(static t => t.Format.IsPacked), quality.Tensors.Count);
        Assert.All(quality.Tensors, static t => Assert.InRange(t.Error, 0.001, 0.05));
    }

    [Fact]
    public async Task Calibration_HelpsAgainstPlainRounding()
    {
        using var folder = new TemporaryFolder();
        var plain = await DivergenceAsync(folder.File("plain"), calibrate: false);
        var calibrated = await DivergenceAsync(folder.File("calibrated"), calibrate: true);
        output.WriteLine($"divergence {calibrated:F5} calibrated, {plain:F5} plain");
        Assert.InRange(calibrated / plain, 0.1, 0.95);

        async Task<double> DivergenceAsync(string model, bool calibrate)
        {
            var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int4, Calibrate = calibrate };
            await ErnieExporter.ExportAsync(TinyModel.Checkpoint, model, options, cancellationToken: Token);
            using var source = await TinyModel.LoadAsync();
            using var quantised = await ErnieModel.LoadAsync(model, new ErnieModelOptions { KvCacheBytes = 64 << 20, Threads = 2 }, cancellationToken: Token);
            var sum = new DivergenceSum();
            // Prompts of the model's own kind, not of the calibration's.
            foreach (var line in File.ReadLines(Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Data", "tiny-eval.jsonl")).Where(static (_, i) => i % 25 == 0))
            {
                var ids = source.Tokenizer!.EncodeToIds(JsonDocument.Parse(line).RootElement.GetProperty("prompt").GetString()!, allowSpecialTokens: true).ToArray();
                var (a, b) = (await LoadedModels.LogitsAsync(source, ids, Token), await LoadedModels.LogitsAsync(quantised, ids, Token));
                for (var t = 0; t < ids.Length - 1; t++) sum.Add(a.AsSpan(t * source.VocabularySize, source.VocabularySize), b.AsSpan(t * source.VocabularySize, source.VocabularySize), ids[t + 1]);
            }
            return sum.Mean;
        }
    }

    [Fact]
    public async Task AnExportThatWasBrokenOff_GoesOnToTheSameBytes()
    {
        using var folder = new TemporaryFolder();
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int2, Dense = ErniePrecision.Int4 };
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("whole"), options, cancellationToken: Token);
        using var stop = new CancellationTokenSource();
        var progress = new DirectProgress<ErnieProgress>(report =>
        {
            // In the middle of the experts of layer 2.
            if (report.Stage.Contains("layers.2.mlp.experts.down", StringComparison.Ordinal)) stop.Cancel();
        });
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("broken"), options, progress, stop.Token));
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("broken"), options, cancellationToken: Token);
        Assert.Equal(File.ReadAllBytes(Path.Combine(folder.File("whole"), ModelManifest.WeightFile)), File.ReadAllBytes(Path.Combine(folder.File("broken"), ModelManifest.WeightFile)));
        await ErnieExporter.VerifyAsync(folder.File("broken"), cancellationToken: Token);
    }

    [Fact]
    public async Task Int2_WithoutAnythingToCalibrateWith_IsRefused()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Hidden = 128, Experts = 4, ExpertIntermediate = 128, Layers = 2, Vocabulary = 101 }.Write(folder.File("checkpoint"));
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int2, Dense = ErniePrecision.BFloat16 };
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), options, cancellationToken: Token));
        Assert.Contains("int2 needs calibration", e.Message, StringComparison.Ordinal);
        // Ids need no tokenizer.
        var random = new Random(1);
        options.CalibrationFile = folder.File("ids.jsonl");
        File.WriteAllLines(options.CalibrationFile, Enumerable.Range(0, 6).Select(_ => $$"""{"id": "passage", "ids": [{{string.Join(", ", Enumerable.Range(0, 80).Select(_ => random.Next(101)))}}]}"""));
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), options, cancellationToken: Token);
        var quality = QualityFile.Find(folder.File("model"))!;
        Assert.All(quality.Tensors, static t => Assert.InRange(t.WeightedError, 0.01, 0.2));
    }

    [Theory]
    [InlineData("", "at least two sequences")]
    [InlineData("{\"ids\": [1, 2, 3]}", "at least two sequences")]
    [InlineData("{\"ids\": [1, 2, 3]}\n{\"ids\": 5}", "line 2")]
    [InlineData("{\"id\": \"a\", \"ids\": [1, 2, 3]}\n{\"id\": \"b\"}", "line 2")]
    [InlineData("text with a \0 in it", "zero bytes")]
    [InlineData("{\"ids\": [1, 2, 3]}\n{\"ids\": [99999, 2, 3]}", "token 99999 does not exist")]
    public async Task AUselessCalibrationFile_IsRefusedWithItsName(string content, string problem)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder.File("calibration.txt"), content);
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, CalibrationFile = folder.File("calibration.txt") };
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), options, cancellationToken: Token));
        output.WriteLine(e.Message);
        Assert.Contains(options.CalibrationFile, e.Message, StringComparison.Ordinal);
        Assert.Contains(problem, e.Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(folder.File("model")));
    }

    [Fact]
    public async Task ACalibrationFileThatIsNoText_IsRefused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder.File("binary"), [0x7F, 0x45, 0xFF, 0xFE, 0x80]);
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, CalibrationFile = folder.File("binary") };
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), options, cancellationToken: Token));
        Assert.Contains("no UTF-8 text", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AMissingCalibrationFile_IsNamed()
    {
        using var folder = new TemporaryFolder();
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, CalibrationFile = folder.File("nowhere.txt") };
        var e = await Assert.ThrowsAsync<FileNotFoundException>(() => ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), options, cancellationToken: Token));
        Assert.Contains("nowhere.txt", e.Message, StringComparison.Ordinal);
    }
}
