using System.Diagnostics.Metrics;
using System.Runtime.InteropServices;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What a model counts of its routers, and that reading experts ahead changes no result.</summary>
public sealed class ExpertLoadOfModelTests
{
    private const string Text = "Clause 3. The late fee is 4,812 yuan per day.\nClause 9. The lease ends on 4 March 2027.\n\nWhat is the late fee in clause 3?";

    [Fact]
    public void Load_EqualsTheRoutersChoices()
    {
        using var loaded = new LoadedRunner(TinyModel.Checkpoint);
        int[] ids = [13, 336, 1446, 331, 1207, 374, 322, 1434];
        var table = loaded.Allocate(ids.Length);
        var batch = new StepBatch();
        batch.Add(ids, 0, table, SequenceFlags.None, SparseLimits.Dense, 1);
        int[] layers = [1, 2, 3, 4];
        var outputs = loaded.Runner.Run(batch, null, [.. layers.Select(ErnieGraph.RouterSelected)]);
        Assert.Equal(layers, loaded.Runner.Load.Layers.Select(static layer => layer.Layer));
        foreach (var (layer, output) in loaded.Runner.Load.Layers.Zip(outputs))
        {
            var expected = new long[8];
            foreach (var expert in output.GetTensorDataAsSpan<int>()) expected[expert]++;
            Assert.Equal(expected, Enumerable.Range(0, 8).Select(layer.Chosen));
            Assert.Equal(ids.Length, layer.Tokens);
            output.Dispose();
        }
    }

    [Fact]
    public async Task Prefetch_ChangesNoBit_AndPredictsMostChoices()
    {
        var cancellation = TestContext.Current.CancellationToken;
        var logits = new List<float[]>();
        foreach (var (prefetch, measure) in new[] { (ErnieExpertPrefetch.Off, false), (ErnieExpertPrefetch.On, false), (ErnieExpertPrefetch.On, true), (ErnieExpertPrefetch.Off, true) })
        {
            using var model = await TinyModel.LoadAsync(options => (options.ExpertPrefetch, options.MeasureExperts) = (prefetch, measure));
            var ids = model.Tokenizer!.EncodeToIds(Text);
            var values = new float[ids.Count * model.VocabularySize];
            await model.ScoreAsync(ids, (position, part) => part.CopyTo(values.AsSpan(position * model.VocabularySize)), cancellation);
            logits.Add(values);
            var load = model.GetExpertLoad();
            Assert.Equal(prefetch == ErnieExpertPrefetch.On, model.PrefetchedBytes > 0);
            Assert.All(load.Layers, layer => Assert.Equal(ids.Count, layer.TokenCount));
            var isPredicting = prefetch == ErnieExpertPrefetch.On || measure;
            Assert.Null(load.Layers[0].PredictionAccuracy);
            // Chance is 25 %.
            Assert.All(load.Layers.Skip(1), layer => Assert.Equal(isPredicting, layer.PredictionAccuracy is > 0.6 and <= 1));
            Assert.All(load.Layers.Skip(1), layer => Assert.Equal(measure && !OperatingSystem.IsWindows(), layer.PrefetchHitRate is > 0.9 and <= 1));
        }
        Assert.All(logits.Skip(1), other => Assert.Equal(MemoryMarshal.Cast<float, int>(logits[0]).ToArray(), MemoryMarshal.Cast<float, int>(other).ToArray()));
    }

    [Fact]
    public async Task Prefetch_OfManySequencesAndDecode_GivesTheSameTokens()
    {
        var cancellation = TestContext.Current.CancellationToken;
        var answers = new List<int[][]>();
        foreach (var prefetch in new[] { ErnieExpertPrefetch.Off, ErnieExpertPrefetch.On })
        {
            using var model = await TinyModel.LoadAsync(options => options.ExpertPrefetch = prefetch);
            var greedy = new ErnieGenerationOptions { Temperature = 0, MaxTokens = 24, IgnoreStopTokens = true };
            answers.Add(await Task.WhenAll(Enumerable.Range(1, 5).Select(n => model.GenerateAsync([.. Enumerable.Range(20, 9 * n)], greedy, cancellation).ToArrayAsync(cancellation).AsTask())));
            Assert.Equal(9 * 15 + 5 * 23, model.GetExpertLoad().Layers[0].TokenCount);
        }
        Assert.Equal(answers[0], answers[1]);
    }

    [Fact]
    public async Task Auto_ReadsAheadOnlyWhatExceedsMemory()
    {
        using var model = await TinyModel.LoadAsync();
        await model.GenerateAsync([20, 21], new ErnieGenerationOptions { MaxTokens = 2 }, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken);
        Assert.Equal(0, model.PrefetchedBytes);
        var manifest = ModelManifest.Read(model.Path);
        Assert.True(ExpertReading.For(manifest with { WeightBytes = long.MaxValue }, new ErnieModelOptions()).Ahead);
        Assert.False(ExpertReading.For(manifest with { WeightBytes = long.MaxValue }, new ErnieModelOptions { ExpertPrefetch = ErnieExpertPrefetch.Off }).IsOn);
    }

    [Fact]
    public async Task Meter_ShowsALoadedModel_AndForgetsADisposedOne()
    {
        var measured = new Dictionary<string, double>();
        var labels = new HashSet<string>();
        using var listener = new MeterListener { InstrumentPublished = static (instrument, l) => { if (instrument.Meter.Name == "Ernie.Sdk") l.EnableMeasurementEvents(instrument); } };
        var id = $"metered-{Guid.NewGuid():N}";
        void Record(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            if (!tags.Contains(new("ernie.model", id))) return;
            measured[instrument.Name] = measured.GetValueOrDefault(instrument.Name) + value;
            labels.Add(string.Join(' ', tags.ToArray().Select(static t => t.Key)));
        }
        listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Record(instrument, value, tags));
        listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Record(instrument, value, tags));
        listener.Start();

        using var folder = new TemporaryFolder();
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("m"), new ErnieExportOptions { ModelName = id, Calibrate = false }, cancellationToken: TestContext.Current.CancellationToken);
        var model = await ErnieModel.LoadAsync(folder.File("m"), new ErnieModelOptions { KvCacheBytes = 64 << 20, ExpertPrefetch = ErnieExpertPrefetch.On, MeasureExperts = true }, cancellationToken: TestContext.Current.CancellationToken);
        await model.GenerateAsync([20, 21, 22], new ErnieGenerationOptions { MaxTokens = 1 }, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken);
        listener.RecordObservableInstruments();
        Assert.Equal(4 * 3 * 2, measured["ernie.expert.tokens"]);
        Assert.Equal(4 * 2, measured["ernie.expert.share"], 1e-9);
        Assert.Equal(3 * 3 * 2, measured["ernie.expert.prediction.choices"]);
        Assert.InRange(measured["ernie.expert.prediction.hits"], 1, 3 * 3 * 2);
        Assert.InRange(measured["ernie.expert.imbalance"], 4, 16);
        Assert.InRange(measured["ernie.expert.prediction.accuracy"], 0.1, 3);
        Assert.Contains("ernie.model ernie.model.instance ernie.layer ernie.expert", labels);

        model.Dispose();
        measured.Clear();
        listener.RecordObservableInstruments();
        Assert.Empty(measured);
        Assert.Throws<ObjectDisposedException>(model.GetExpertLoad);
    }

    [Fact]
    public async Task DenseModel_HasNoLayers()
    {
        using var folder = new TemporaryFolder();
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Dense, 3), null, folder.File("dense"), new ErnieExportOptions(), null, TestContext.Current.CancellationToken);
        using var model = await ErnieModel.LoadAsync(folder.File("dense"), new ErnieModelOptions { KvCacheBytes = 16 << 20, ExpertPrefetch = ErnieExpertPrefetch.On }, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Empty(model.GetExpertLoad().Layers);
    }
}
