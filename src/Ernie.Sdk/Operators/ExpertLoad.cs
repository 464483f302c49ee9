namespace Ernie.Sdk.Operators;

/// <summary>
/// How often the routers of one model chose each expert. The engine's thread writes, any thread reads without a lock: every number is whole, numbers read together may be one step apart.
/// </summary>
/// <param name="layers">The mixture-of-experts layers and the nodes that run them, from first to last.</param>
/// <param name="expertCount">Routed experts of a layer.</param>
/// <param name="expertsPerToken">Experts that compute a token.</param>
internal sealed class ExpertLoad(IEnumerable<(int Layer, string Node)> layers, int expertCount, int expertsPerToken)
{
    public int ExpertCount => expertCount;
    public int ExpertsPerToken => expertsPerToken;

    /// <summary>One for each mixture-of-experts layer, from first to last.</summary>
    public IReadOnlyList<LayerLoad> Layers { get; } = [.. layers.Select(layer => new LayerLoad(layer.Layer, layer.Node, expertCount))];

    /// <summary>Place among <see cref="Layers"/> of the layer that a node runs, or -1.</summary>
    public int IndexOf(string node)
    {
        for (var i = 0; i < Layers.Count; i++)
        {
            if (Layers[i].Node == node) return i;
        }
        return -1;
    }
}

/// <summary>The counters of one layer.</summary>
internal sealed class LayerLoad(int layer, string node, int expertCount)
{
    /// <summary>Tokens after which a choice counts 1/e in the moving average: long enough to smooth one prompt, short enough to follow a change of subject.</summary>
    public const double WindowTokens = 2048;

    private readonly long[] _chosen = new long[expertCount];
    // Sums that fade by the same factor; their quotient needs no correction for a short past.
    private readonly double[] _faded = new double[expertCount];
    private double _fadedTokens;
    private long _tokens;
    private long _predicted, _predictedRight;
    private long _sampledPages, _residentPages;
    private long _cpuChoices, _moves;

    public int Layer => layer;
    public string Node => node;
    public int ExpertCount => expertCount;
    public long Tokens => Volatile.Read(ref _tokens);
    /// <summary>Choices for which there was a prediction.</summary>
    public long Predicted => Volatile.Read(ref _predicted);
    /// <summary>Choices that were among the predicted ones for their token.</summary>
    public long PredictedRight => Volatile.Read(ref _predictedRight);
    /// <summary>Pages of rightly predicted experts that were looked at when their layer began.</summary>
    public long SampledPages => Volatile.Read(ref _sampledPages);
    public long ResidentPages => Volatile.Read(ref _residentPages);

    /// <summary>Choices of experts that the CPU computed beside a GPU.</summary>
    public long CpuChoices => Volatile.Read(ref _cpuChoices);
    /// <summary>How often an expert took another's place on the GPU.</summary>
    public long Moves => Volatile.Read(ref _moves);

    public long Chosen(int expert) => Volatile.Read(ref _chosen[expert]);

    /// <summary>Moving average of the share of tokens that choose an expert: over all experts the sum is the number of experts per token.</summary>
    public double Share(int expert)
    {
        var tokens = Volatile.Read(ref _fadedTokens);
        return tokens == 0 ? 0 : Volatile.Read(ref _faded[expert]) / tokens;
    }

    /// <summary>The busiest expert's moving average over the mean one's; 1 is even, 0 says that nothing was computed yet.</summary>
    public double Imbalance()
    {
        double most = 0, sum = 0;
        for (var e = 0; e < expertCount; e++)
        {
            var share = Share(e);
            most = Math.Max(most, share);
            sum += share;
        }
        return sum == 0 ? 0 : most * expertCount / sum;
    }

    /// <summary>Counts one step. Only the engine's thread calls this.</summary>
    /// <param name="selected">[tokens, experts per token].</param>
    /// <param name="tokens">Tokens of the step.</param>
    public void Add(ReadOnlySpan<int> selected, int tokens)
    {
        var keep = Math.Exp(-tokens / WindowTokens);
        for (var e = 0; e < _faded.Length; e++) _faded[e] *= keep;
        foreach (var e in selected)
        {
            _chosen[e]++;
            _faded[e]++;
        }
        _fadedTokens = _fadedTokens * keep + tokens;
        Volatile.Write(ref _tokens, _tokens + tokens);
    }

    /// <summary>Counts how many of a step's choices had been predicted.</summary>
    public void AddPrediction(long choices, long right)
    {
        Volatile.Write(ref _predictedRight, _predictedRight + right);
        Volatile.Write(ref _predicted, _predicted + choices);
    }

    /// <summary>Counts choices of experts that the CPU computed beside a GPU.</summary>
    public void AddBeside(long choices) => Volatile.Write(ref _cpuChoices, _cpuChoices + choices);

    public void AddMove() => Volatile.Write(ref _moves, _moves + 1);

    public void AddResidency(long sampled, long resident)
    {
        Volatile.Write(ref _residentPages, _residentPages + resident);
        Volatile.Write(ref _sampledPages, _sampledPages + sampled);
    }
}
