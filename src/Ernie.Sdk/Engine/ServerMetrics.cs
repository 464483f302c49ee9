using System.Collections.Immutable;
using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace Ernie.Sdk.Engine;

/// <summary>
/// What users of a model notice, by OpenTelemetry's conventions for generative AI (<c>gen_ai.server.*</c>), and what its engine holds, on the meter of <see cref="ExpertMetrics"/>; and an activity for each request.
/// Times are the caller's: they include waiting in the queue, and end when the caller has the token.
/// </summary>
internal sealed class ServerMetrics : IDisposable
{
    // The conventions' boundaries, and further ones: a processor may compute on a long prompt for minutes.
    private static readonly Histogram<double> s_firstToken = Seconds("gen_ai.server.time_to_first_token", "Time to the first token of an answer.", [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320]);
    private static readonly Histogram<double> s_perToken = Seconds("gen_ai.server.time_per_output_token", "Mean time of an answer's tokens after the first.", [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]);
    private static readonly Histogram<double> s_duration = Seconds("gen_ai.server.request.duration", "Duration of a request.", [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68]);
    private static readonly Counter<long> s_prompt = ExpertMetrics.Meter.CreateCounter<long>("ernie.tokens.prompt", "{token}", "Tokens of prompts that have been answered.");
    private static readonly Counter<long> s_cached = ExpertMetrics.Meter.CreateCounter<long>("ernie.tokens.cached", "{token}", "Tokens of prompts that were in the cache.");
    private static readonly Counter<long> s_generated = ExpertMetrics.Meter.CreateCounter<long>("ernie.tokens.generated", "{token}", "Tokens of answers.");
    private static readonly ActivitySource s_activities = new(ExpertMetrics.MeterName, ExpertMetrics.Meter.Version);
    private static ImmutableArray<ServerMetrics> s_models = [];
    private static int s_instances;

    private readonly Func<(EngineState State, int Blocks)> _engine;
    private readonly KeyValuePair<string, object?>[] _tags;
    private readonly KeyValuePair<string, object?>[] _instanceTags;
    private readonly string _model;

    static ServerMetrics()
    {
        ExpertMetrics.Meter.CreateObservableGauge("ernie.requests.running", static () => PerModel(static (state, _) => state.Running), "{request}", "Requests that are computed.");
        ExpertMetrics.Meter.CreateObservableGauge("ernie.requests.waiting", static () => PerModel(static (state, _) => state.Waiting), "{request}", "Requests in the queue.");
        ExpertMetrics.Meter.CreateObservableGauge("ernie.kv_cache.usage", static () => PerModel(static (state, blocks) => (double)(blocks - state.FreeBlocks) / blocks), "1", "Share of the KV cache that requests hold.");
        ExpertMetrics.Meter.CreateObservableGauge("ernie.kv_cache.idle", static () => PerModel(static (state, blocks) => (double)state.IdleBlocks / blocks), "1", "Share of the KV cache that is kept for prompts to come.");
        ExpertMetrics.Meter.CreateObservableCounter("ernie.requests.preempted", static () => PerModel(static (state, _) => state.Preemptions), "{request}", "How often a request lost its memory to an older one.");
    }

    private ServerMetrics(string model, Func<(EngineState State, int Blocks)> engine)
    {
        (_model, _engine) = (model, engine);
        _tags = [new("gen_ai.operation.name", "text_completion"), new("gen_ai.provider.name", "ernie"), new("gen_ai.request.model", model)];
        _instanceTags = [new("ernie.model", model), new("ernie.model.instance", Interlocked.Increment(ref s_instances))];
    }

    /// <summary>Shows a model's engine until the result is disposed.</summary>
    /// <param name="model">The model's name.</param>
    /// <param name="engine">Reads what the engine holds, and how many blocks its cache has.</param>
    public static ServerMetrics Observe(string model, Func<(EngineState State, int Blocks)> engine)
    {
        var metrics = new ServerMetrics(model, engine);
        ImmutableInterlocked.Update(ref s_models, static (models, added) => models.Add(added), metrics);
        return metrics;
    }

    public void Dispose() => ImmutableInterlocked.Update(ref s_models, static (models, removed) => models.Remove(removed), this);

    public RequestMetrics Begin(int promptTokens) => new(this, promptTokens);

    private static Histogram<double> Seconds(string name, string description, double[] boundaries) =>
        ExpertMetrics.Meter.CreateHistogram(name, "s", description, tags: null, new InstrumentAdvice<double> { HistogramBucketBoundaries = boundaries });

    private static IEnumerable<Measurement<T>> PerModel<T>(Func<EngineState, int, T> value) where T : struct
    {
        foreach (var model in s_models)
        {
            var (state, blocks) = model._engine();
            yield return new Measurement<T>(value(state, blocks), model._instanceTags);
        }
    }

    /// <summary>One request, from its submission to its end. Used by one caller at a time.</summary>
    public sealed class RequestMetrics : IDisposable
    {
        private readonly ServerMetrics _server;
        private readonly int _promptTokens;
        private readonly Activity? _activity;
        private readonly long _started = Stopwatch.GetTimestamp();
        private long _first;
        private long _last;
        private int _tokens;
        private int _cachedTokens;
        private string? _finish;
        private string? _error;

        public RequestMetrics(ServerMetrics server, int promptTokens)
        {
            (_server, _promptTokens) = (server, promptTokens);
            var outer = Activity.Current;
            _activity = s_activities.StartActivity($"text_completion {server._model}", ActivityKind.Internal, outer?.Context ?? default, server._tags);
            // The caller's code runs between two tokens: what it starts there is not part of this request.
            Activity.Current = outer;
        }

        public void Add(GeneratedToken token)
        {
            _last = Stopwatch.GetTimestamp();
            if (_tokens++ == 0) (_first, _cachedTokens) = (_last, token.CachedTokens);
            if (token.Finish is { } finish) _finish = finish == FinishReason.Stop ? "stop" : "length";
        }

        public void Fail(Exception failure) => _error = failure.GetType().FullName;

        public void Dispose()
        {
            var duration = Stopwatch.GetElapsedTime(_started).TotalSeconds;
            // Whoever leaves an answer early has what was wanted: that is no error. A cancel is one, as it is to the client.
            s_duration.Record(duration, _error is null ? _server._tags : [.. _server._tags, new("error.type", _error)]);
            if (_tokens > 0)
            {
                s_firstToken.Record(Stopwatch.GetElapsedTime(_started, _first).TotalSeconds, _server._tags);
                s_prompt.Add(_promptTokens, _server._instanceTags);
                s_cached.Add(_cachedTokens, _server._instanceTags);
                s_generated.Add(_tokens, _server._instanceTags);
            }
            if (_tokens > 1) s_perToken.Record(Stopwatch.GetElapsedTime(_first, _last).TotalSeconds / (_tokens - 1), _server._tags);
            if (_activity is null) return;
            _activity.SetTag("gen_ai.usage.input_tokens", _promptTokens).SetTag("gen_ai.usage.output_tokens", _tokens).SetTag("gen_ai.usage.cache_read.input_tokens", _cachedTokens);
            if (_finish is not null) _activity.SetTag("gen_ai.response.finish_reasons", new[] { _finish });
            if (_error is not null) _activity.SetTag("error.type", _error).SetStatus(ActivityStatusCode.Error);
            var outer = Activity.Current;
            _activity.Dispose();
            Activity.Current = outer;
        }
    }
}
