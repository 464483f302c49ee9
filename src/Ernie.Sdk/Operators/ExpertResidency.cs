namespace Ernie.Sdk.Operators;

/// <summary>An expert that is to take a place on the GPU.</summary>
/// <param name="Layer">Place among the mixture-of-experts layers.</param>
/// <param name="Expert">Of the layer; the CPU computes it now.</param>
/// <param name="Slot">Where to.</param>
/// <param name="Replaced">The expert that lies there; -1: none.</param>
internal readonly record struct ExpertMove(int Layer, int Expert, int Slot, int Replaced);

/// <summary>
/// Which experts lie in a GPU's slots, layer by layer, and which of the others should by the load of past steps: it decides and keeps the books, and moves nothing. Used by the engine's thread only.
/// </summary>
/// <remarks>
/// A move costs about as much as ten computations of the expert on the CPU, so what chance makes of an even load must not cause one. Three rules see to that: the busier expert's mean load must be
/// <see cref="Factor"/> times the other's, the difference must be <see cref="Deviations"/> standard deviations of what it would be by chance, and an expert that was moved stays where it is for <see cref="RestSteps"/> steps.
/// The last one bounds what any load, however it alternates, can make the GPU copy.
/// </remarks>
internal sealed class ExpertResidency
{
    /// <summary>Steps after which a step counts 1/e: the length of an answer. Of an expert that one of a dozen tokens chooses, decode of one conversation shows some forty choices in that time.</summary>
    public const double WindowSteps = 512;
    /// <summary>At less than half as much again, the loads of the next answer are as likely to be the other way round. Not measured on a GPU.</summary>
    public const double Factor = 1.5;
    /// <summary>Among 64 experts of even load, the busiest of one half and the idlest of the other are three apart by chance; six do not happen in the life of a model.</summary>
    public const double Deviations = 6;
    /// <summary>Steps that an expert stays where it came to: a quarter of the window.</summary>
    public const int RestSteps = 128;

    private static readonly double s_keep = Math.Exp(-1 / WindowSteps);
    private readonly Layer?[] _layers;
    private readonly int _expertCount;
    private long _step;

    /// <param name="layerCount">Mixture-of-experts layers.</param>
    /// <param name="expertCount">Experts of a layer.</param>
    public ExpertResidency(int layerCount, int expertCount) => (_layers, _expertCount) = (new Layer?[layerCount], expertCount);

    public int LayerCount => _layers.Length;

    /// <summary>Experts that took a place since the beginning.</summary>
    public long MoveCount { get; private set; }

    /// <summary>Gives a layer slots, in which its first experts lie.</summary>
    /// <param name="layer">Place among the mixture-of-experts layers.</param>
    /// <param name="begin">First expert of the device.</param>
    /// <param name="end">Behind its last expert.</param>
    /// <param name="slots">How many of these are on the GPU.</param>
    public void Add(int layer, int begin, int end, int slots) => _layers[layer] = new Layer(_expertCount, begin, end, slots);

    /// <summary>[experts] slot of each expert of a layer; -1: it is not on the GPU.</summary>
    public ReadOnlySpan<int> SlotsOf(int layer) => _layers[layer]!.SlotOf;

    /// <summary>Mean tokens per step of late that chose an expert.</summary>
    public double LoadOf(int layer, int expert) => _layers[layer]!.Load(expert);

    /// <summary>Share of the choices of late that the GPU's experts have, in layers that are partly there; 0 without any.</summary>
    public double Share()
    {
        double here = 0, all = 0;
        for (var i = 0; i < _layers.Length; i++)
        {
            if (_layers[i] is not { ExpertOf.Length: > 0 } layer) continue;
            for (var e = 0; e < _expertCount; e++)
            {
                all += layer.Load(e);
                if (layer.SlotOf[e] >= 0) here += layer.Load(e);
            }
        }
        return all == 0 ? 0 : here / all;
    }

    /// <summary>Begins the books of a step.</summary>
    public void BeginStep() => _step++;

    /// <summary>Counts what one layer's router chose in a step.</summary>
    /// <param name="layer">Place among the mixture-of-experts layers.</param>
    /// <param name="selected">[tokens, experts per token].</param>
    /// <returns>Choices of experts that are not on the GPU; 0 for a layer without slots of its own.</returns>
    public int Count(int layer, ReadOnlySpan<int> selected) => _layers[layer]?.Count(selected) ?? 0;

    /// <summary>The move of all layers that takes most load off the CPU.</summary>
    /// <returns>Null where none is worth it.</returns>
    public ExpertMove? Next()
    {
        ExpertMove? best = null;
        var most = 0.0;
        for (var i = 0; i < _layers.Length; i++)
        {
            if (_layers[i] is not { } layer || layer.Best(_step) is not { } found || found.Gain <= most) continue;
            (best, most) = (new ExpertMove(i, found.Expert, found.Slot, layer.ExpertOf[found.Slot]), found.Gain);
        }
        return best;
    }

    /// <summary>The expert that a move replaces is no longer on the GPU, whose slot is empty.</summary>
    public void Leave(in ExpertMove move)
    {
        var layer = _layers[move.Layer]!;
        layer.ExpertOf[move.Slot] = -1;
        if (move.Replaced < 0) return;
        layer.SlotOf[move.Replaced] = -1;
        layer.MovedAt[move.Replaced] = _step;
    }

    /// <summary>The expert is in its slot.</summary>
    public void Arrive(in ExpertMove move)
    {
        var layer = _layers[move.Layer]!;
        layer.ExpertOf[move.Slot] = move.Expert;
        layer.SlotOf[move.Expert] = move.Slot;
        layer.MovedAt[move.Expert] = _step;
        MoveCount++;
    }

    private sealed class Layer
    {
        private readonly int _begin, _end;
        // Sums over the steps that fade by the same factor: tokens of each expert, and ones. The squares of the steps' weights say how much chance there is in the quotient.
        private readonly double[] _tokens;
        private double _steps, _squares;

        public Layer(int expertCount, int begin, int end, int slots)
        {
            (_begin, _end, _tokens) = (begin, end, new double[expertCount]);
            SlotOf = new int[expertCount];
            SlotOf.AsSpan().Fill(-1);
            ExpertOf = new int[slots];
            MovedAt = new long[expertCount];
            MovedAt.AsSpan().Fill(-RestSteps);
            for (var slot = 0; slot < slots; slot++) (SlotOf[begin + slot], ExpertOf[slot]) = (slot, begin + slot);
        }

        public int[] SlotOf { get; }
        /// <summary>[slots]; -1: none.</summary>
        public int[] ExpertOf { get; }
        /// <summary>[experts] step.</summary>
        public long[] MovedAt { get; }

        public double Load(int expert) => _steps == 0 ? 0 : _tokens[expert] / _steps;

        public int Count(ReadOnlySpan<int> selected)
        {
            foreach (ref var tokens in _tokens.AsSpan()) tokens *= s_keep;
            (_steps, _squares) = (_steps * s_keep + 1, _squares * s_keep * s_keep + 1);
            var away = 0;
            foreach (var e in selected)
            {
                _tokens[e]++;
                if (SlotOf[e] < 0 && e >= _begin && e < _end) away++;
            }
            return away;
        }

        public (int Expert, int Slot, double Gain)? Best(long step)
        {
            if (ExpertOf.Length == 0 || _steps == 0) return null;
            var (busiest, slot) = (-1, -1);
            for (var e = _begin; e < _end; e++)
            {
                if (SlotOf[e] < 0 && step - MovedAt[e] >= RestSteps && (busiest < 0 || _tokens[e] > _tokens[busiest])) busiest = e;
            }
            if (busiest < 0) return null;
            for (var s = 0; s < ExpertOf.Length; s++)
            {
                // Nothing is lost by filling a slot that a failure has left empty.
                if (ExpertOf[s] < 0) return _tokens[busiest] > 0 ? (busiest, s, double.MaxValue) : null;
                if (step - MovedAt[ExpertOf[s]] >= RestSteps && (slot < 0 || _tokens[ExpertOf[s]] < _tokens[ExpertOf[slot]])) slot = s;
            }
            if (slot < 0) return null;
            var (more, less) = (Load(busiest), Load(ExpertOf[slot]));
            // Choices come by chance, as a Poisson process does: the variance of a mean over equally weighted steps is the mean over their number.
            var chance = Math.Sqrt((more + less) * _squares) / _steps;
            return more > Factor * less && more - less > Deviations * chance ? (busiest, slot, more - less) : null;
        }
    }
}
