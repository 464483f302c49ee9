using Ernie.Sdk.Operators;

namespace Ernie.Sdk;

/// <summary>How the routers of a model have spread tokens over its experts since it was loaded. See <see cref="ErnieModel.GetExpertLoad"/>.</summary>
public sealed class ErnieExpertLoad
{
    internal ErnieExpertLoad(ExpertLoad load)
    {
        (ExpertCount, ExpertsPerToken) = (load.ExpertCount, load.ExpertsPerToken);
        Layers = [.. load.Layers.Select(static layer => new ErnieLayerLoad(layer))];
    }

    /// <summary>Gets the number of routed experts of a layer; 0 for a dense model.</summary>
    public int ExpertCount { get; }

    /// <summary>Gets the number of experts that compute one token.</summary>
    public int ExpertsPerToken { get; }

    /// <summary>Gets the mixture-of-experts layers, from first to last; none for a dense model.</summary>
    public IReadOnlyList<ErnieLayerLoad> Layers { get; }
}

/// <summary>How the router of one layer has spread tokens over its experts.</summary>
public sealed class ErnieLayerLoad
{
    internal ErnieLayerLoad(LayerLoad load)
    {
        (Layer, TokenCount, Imbalance) = (load.Layer, load.Tokens, load.Imbalance());
        ExpertTokens = [.. Enumerable.Range(0, load.ExpertCount).Select(load.Chosen)];
        ExpertShares = [.. Enumerable.Range(0, load.ExpertCount).Select(load.Share)];
        PredictionAccuracy = load.Predicted == 0 ? null : (double)load.PredictedRight / load.Predicted;
        PrefetchHitRate = load.SampledPages == 0 ? null : (double)load.ResidentPages / load.SampledPages;
    }

    /// <summary>Gets the layer's index in the model.</summary>
    public int Layer { get; }

    /// <summary>Gets how many tokens the layer has routed.</summary>
    public long TokenCount { get; }

    /// <summary>Gets how many tokens chose each expert.</summary>
    public IReadOnlyList<long> ExpertTokens { get; }

    /// <summary>Gets the share of recent tokens that chose each expert: an exponential moving average over about 2,048 tokens. The sum is the number of experts per token.</summary>
    public IReadOnlyList<double> ExpertShares { get; }

    /// <summary>Gets the busiest expert's share over the mean share: 1 is even, 0 says that no token has come yet.</summary>
    public double Imbalance { get; }

    /// <summary>Gets the share of chosen experts that the layer before had predicted, or <see langword="null"/> where nothing is predicted. See <see cref="ErnieModelOptions.ExpertPrefetch"/>.</summary>
    public double? PredictionAccuracy { get; }

    /// <summary>Gets the share of sampled weight pages of rightly predicted experts that were in memory when they were needed, or <see langword="null"/> where that is not measured.</summary>
    public double? PrefetchHitRate { get; }
}
