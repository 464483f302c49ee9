using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What listeners to the meter and the activity source hear of a request.</summary>
public sealed class ServerMetricsTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task ARequest_IsMeasured_AndIsOneActivity()
    {
        var measured = new ConcurrentDictionary<string, double>();
        var activities = new ConcurrentQueue<Activity>();
        using var folder = new TemporaryFolder();
        // A name of its own: other tests' models are heard too.
        var name = $"measured-{Guid.NewGuid():N}";
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("m"), new ErnieExportOptions { ModelName = name, Calibrate = false }, cancellationToken: Token);
        using var meters = new MeterListener { InstrumentPublished = static (instrument, l) => { if (instrument.Meter.Name == "Ernie.Sdk") l.EnableMeasurementEvents(instrument); } };
        meters.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Record(instrument, value, tags));
        meters.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Record(instrument, value, tags));
        meters.SetMeasurementEventCallback<int>((instrument, value, tags, _) => Record(instrument, value, tags));
        meters.Start();
        using var listener = new ActivityListener { ShouldListenTo = static source => source.Name == "Ernie.Sdk", Sample = static (ref _) => ActivitySamplingResult.AllData, ActivityStopped = activities.Enqueue };
        ActivitySource.AddActivityListener(listener);

        using var outer = new Activity("outer").Start();
        using (var model = await ErnieModel.LoadAsync(folder.File("m"), new ErnieModelOptions { KvCacheBytes = 64 << 20 }, cancellationToken: Token))
        {
            await foreach (var _ in model.GenerateAsync([20, 21, 22], new ErnieGenerationOptions { MaxTokens = 5, IgnoreStopTokens = true }, Token)) Assert.Same(outer, Activity.Current);
            Assert.Same(outer, Activity.Current);
            meters.RecordObservableInstruments();
            Assert.True(measured.ContainsKey("ernie.requests.waiting") && measured.ContainsKey("ernie.kv_cache.usage"));
        }
        Assert.True(measured["gen_ai.server.request.duration"] >= measured["gen_ai.server.time_to_first_token"] + 4 * measured["gen_ai.server.time_per_output_token"] - 1e-9);
        Assert.True(measured["gen_ai.server.time_per_output_token"] > 0);
        Assert.Equal((3, 5, 0), (measured["ernie.tokens.prompt"], measured["ernie.tokens.generated"], measured["ernie.tokens.cached"]));
        var activity = Assert.Single(activities, a => Equals(a.GetTagItem("gen_ai.request.model"), name));
        Assert.Equal(outer.SpanId, activity.ParentSpanId);
        Assert.Equal((3, 5), (activity.GetTagItem("gen_ai.usage.input_tokens"), activity.GetTagItem("gen_ai.usage.output_tokens")));
        Assert.Equal(ActivityStatusCode.Unset, activity.Status);

        void Record(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            if (tags.Contains(new("gen_ai.request.model", name)) || tags.Contains(new("ernie.model", name))) measured.AddOrUpdate(instrument.Name, value, (_, before) => before + value);
        }
    }
}
