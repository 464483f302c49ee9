using System.Numerics.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Chooses a token from logits: penalties, temperature, softmax, min-p, top-k, top-p, draw, in FastDeploy's order. The only place with randomness: draw number n of a seed is a hash
/// of both, so a sequence gets the same tokens whatever runs beside it.
/// </summary>
internal sealed class Sampler(int vocabSize, IReadOnlyList<Range> undefinedRows)
{
    private readonly float[] _logits = new float[vocabSize];
    private readonly int[] _ids = new int[vocabSize];

    /// <param name="logits">[vocabulary].</param>
    /// <param name="settings">Resolved options.</param>
    /// <param name="history">What penalties look at; null without penalties.</param>
    /// <param name="draw">Number of the draw in its sequence.</param>
    public int Sample(ReadOnlySpan<float> logits, SamplingSettings settings, TokenHistory? history, int draw)
    {
        var values = _logits.AsSpan();
        logits.CopyTo(values);
        foreach (var rows in undefinedRows) values[rows].Fill(float.NegativeInfinity);
        if (settings.HasPenalties) history!.Penalise(values, settings);
        // NaN logits would come from a broken model; the most likely finite token keeps the stream alive and the fault visible.
        if (settings.IsGreedy) return ArgMax(values);

        var best = ArgMax(values);
        var top = values[best];
        if (!float.IsFinite(top)) return best;
        TensorPrimitives.Subtract(values, top, values);
        TensorPrimitives.Divide(values, settings.Temperature, values);
        TensorPrimitives.Exp(values, values); // unnormalised: the most likely token has 1
        var count = Keep(values, Math.Max(settings.MinP, float.Epsilon));
        var truncates = (settings.TopK > 0 && settings.TopK < count) || settings.TopP < 1;
        if (truncates)
        {
            // Most likely first, equal ones by id: top-k and top-p keep a prefix of this order.
            var weights = _logits;
            _ids.AsSpan(0, count).Sort((a, b) => weights[b] != weights[a] ? weights[b].CompareTo(weights[a]) : a.CompareTo(b));
            if (settings.TopK > 0) count = Math.Min(count, settings.TopK);
            if (settings.TopP < 1) count = Reach(settings.TopP * Sum(count), count);
        }
        return Draw(Uniform(settings.Seed, draw) * Sum(count), count);
    }

    /// <summary>Uniform in [0, 1): splitmix64 of the seed's hash plus the draw's number.</summary>
    internal static double Uniform(ulong seed, int draw) => (Mix(Mix(seed) + (ulong)draw) >> 11) * (1.0 / (1UL << 53));

    /// <summary>Lowest id among the largest values; NaN counts as smallest.</summary>
    internal static int ArgMax(ReadOnlySpan<float> values)
    {
        var best = TensorPrimitives.IndexOfMax(values);
        if (best >= 0 && !float.IsNaN(values[best])) return best;
        best = 0;
        for (var i = 1; i < values.Length; i++)
        {
            if (values[i] > values[best] || (float.IsNaN(values[best]) && !float.IsNaN(values[i]))) best = i;
        }
        return best;
    }

    private int Keep(ReadOnlySpan<float> weights, float least)
    {
        var count = 0;
        for (var id = 0; id < weights.Length; id++)
        {
            if (weights[id] >= least) _ids[count++] = id;
        }
        return count;
    }

    private double Sum(int count)
    {
        double sum = 0;
        for (var i = 0; i < count; i++) sum += _logits[_ids[i]];
        return sum;
    }

    /// <summary>Length of the shortest prefix that reaches <paramref name="target"/>.</summary>
    private int Reach(double target, int count)
    {
        double sum = 0;
        for (var i = 0; i < count; i++)
        {
            sum += _logits[_ids[i]];
            if (sum >= target) return i + 1;
        }
        return count;
    }

    private int Draw(double target, int count)
    {
        double sum = 0;
        for (var i = 0; i < count; i++)
        {
            sum += _logits[_ids[i]];
            if (sum > target) return _ids[i];
        }
        return _ids[count - 1];
    }

    private static ulong Mix(ulong x)
    {
        unchecked
        {
            x += 0x9E3779B97F4A7C15;
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
            return x ^ (x >> 31);
        }
    }
}
