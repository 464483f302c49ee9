using System.Collections.Immutable;
using System.Diagnostics.Metrics;
using Ernie.Sdk.Operators;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Expert load of all models of the process as instruments of one meter. Everything is observed: a model costs nothing while nobody listens. Each number has the tags <c>ernie.model</c> and
/// <c>ernie.model.instance</c>, which counts the models that the process has loaded.
/// </summary>
internal static class ExpertMetrics
{
    public const string MeterName = "Ernie.Sdk";

    public static Meter Meter { get; } = new(MeterName, typeof(ExpertMetrics).Assembly.GetName().Version?.ToString(3));

    private static ImmutableArray<Model> s_models = [];
    private static int s_instances;

    static ExpertMetrics()
    {
        Meter.CreateObservableCounter("ernie.expert.tokens", static () => PerExpert(static (layer, e) => layer.Chosen(e)), "{token}", "Tokens that chose an expert of a layer.");
        Meter.CreateObservableGauge("ernie.expert.share", static () => PerExpert(static (layer, e) => layer.Share(e)), "1", "Share of recent tokens that chose an expert of a layer: a moving average.");
        Meter.CreateObservableGauge("ernie.expert.imbalance", static () => PerLayer(static layer => layer.Imbalance(), static layer => layer.Tokens > 0), "1", "Share of a layer's busiest expert over the mean share.");
        Meter.CreateObservableCounter("ernie.expert.prediction.choices", static () => PerLayer(static layer => layer.Predicted), "{choice}", "Choices of a router for which there was a prediction.");
        Meter.CreateObservableCounter("ernie.expert.prediction.hits", static () => PerLayer(static layer => layer.PredictedRight), "{choice}", "Choices of a router that had been predicted.");
        Meter.CreateObservableGauge("ernie.expert.prediction.accuracy", static () => PerLayer(static layer => (double)layer.PredictedRight / layer.Predicted, static layer => layer.Predicted > 0), "1", "Share of a router's choices that had been predicted.");
        Meter.CreateObservableGauge("ernie.expert.prefetch.hit_rate", static () => PerLayer(static layer => (double)layer.ResidentPages / layer.SampledPages, static layer => layer.SampledPages > 0), "1", "Share of sampled pages of rightly predicted experts that were in memory when they were needed.");
        Meter.CreateObservableCounter("ernie.expert.cpu.choices", static () => PerLayer(static layer => layer.CpuChoices, static layer => layer.CpuChoices > 0), "{choice}", "Choices of experts that the CPU computed beside a GPU.");
        Meter.CreateObservableCounter("ernie.expert.moves", static () => PerLayer(static layer => layer.Moves, static layer => layer.CpuChoices > 0), "{expert}", "Experts that took the place of another on the GPU because they are used more.");
    }

    /// <summary>Shows a model's load until the result is disposed.</summary>
    public static IDisposable Observe(string name, ExpertLoad load)
    {
        var model = new Model(name, Interlocked.Increment(ref s_instances), load);
        ImmutableInterlocked.Update(ref s_models, static (models, added) => models.Add(added), model);
        return model;
    }

    private static IEnumerable<Measurement<T>> PerLayer<T>(Func<LayerLoad, T> value, Func<LayerLoad, bool>? where = null) where T : struct
    {
        foreach (var model in s_models)
        {
            foreach (var layer in model.Load.Layers)
            {
                if (where is null || where(layer)) yield return new Measurement<T>(value(layer), Tags(model, layer));
            }
        }
    }

    private static IEnumerable<Measurement<T>> PerExpert<T>(Func<LayerLoad, int, T> value) where T : struct
    {
        foreach (var model in s_models)
        {
            foreach (var layer in model.Load.Layers)
            {
                for (var e = 0; e < layer.ExpertCount; e++) yield return new Measurement<T>(value(layer, e), [.. Tags(model, layer), new("ernie.expert", e)]);
            }
        }
    }

    private static KeyValuePair<string, object?>[] Tags(Model model, LayerLoad layer) => [new("ernie.model", model.Name), new("ernie.model.instance", model.Instance), new("ernie.layer", layer.Layer)];

    private sealed record Model(string Name, int Instance, ExpertLoad Load) : IDisposable
    {
        public void Dispose() => ImmutableInterlocked.Update(ref s_models, static (models, removed) => models.RemoveAll(model => ReferenceEquals(model, removed)), this);
    }
}
