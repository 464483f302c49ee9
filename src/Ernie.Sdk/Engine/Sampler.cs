using System.Numerics;
using System.Numerics.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Chooses a token from logits: penalties, temperature, softmax, min-p, top-k, top-p, draw, in FastDeploy's order. The only place with randomness: draw number n of a seed is a hash
/// of both, so a sequence gets the same tokens whatever runs beside it.
/// </summary>
internal sealed class Sampler
{
    private readonly IReadOnlyList<Range> _undefinedRows;
    private readonly int _firstDefined;
    private readonly float[] _weights;
    private readonly int[] _ids;
    private readonly WeightRanking _ranking;

    public Sampler(int vocabSize, IReadOnlyList<Range> undefinedRows)
    {
        _undefinedRows = undefinedRows;
        _weights = new float[vocabSize];
        _ids = new int[vocabSize];
        _ranking = new WeightRanking(vocabSize);
        foreach (var rows in undefinedRows) _weights.AsSpan(rows).Fill(float.NegativeInfinity);
        _firstDefined = Math.Max(0, _weights.AsSpan().IndexOf(0f));
    }

    /// <param name="logits">[vocabulary].</param>
    /// <param name="settings">Resolved options.</param>
    /// <param name="history">What penalties look at; null without penalties.</param>
    /// <param name="draw">Number of the draw in its sequence.</param>
    /// <param name="allowed">A bit for each token that may be chosen; empty where all may.</param>
    public int Sample(ReadOnlySpan<float> logits, SamplingSettings settings, TokenHistory? history, int draw, ReadOnlySpan<ulong> allowed = default)
    {
        var kept = Candidates(logits, settings, history, out var isCut, allowed);
        if (kept.Length == 1) return kept[0];
        var target = Uniform(settings.Seed, draw) * Sum(kept);
        // A draw walks through the order that truncation uses, and through ids where nothing was cut off.
        return isCut ? _ranking.FindSum(_weights, kept, Math.BitIncrement(target)) : Draw(kept, target);
    }

    /// <summary>The tokens that may be drawn, in rising order, valid until the next call; <paramref name="isCut"/> tells whether top-k or top-p applied.</summary>
    internal ReadOnlySpan<int> Candidates(ReadOnlySpan<float> logits, SamplingSettings settings, TokenHistory? history, out bool isCut, ReadOnlySpan<ulong> allowed = default)
    {
        isCut = false;
        var values = _weights.AsSpan();
        logits.CopyTo(values);
        foreach (var rows in _undefinedRows) values[rows].Fill(float.NegativeInfinity);
        if (settings.HasPenalties) history!.Penalise(values, settings);
        foreach (var (id, bias) in settings.Bias) values[id] += bias;
        if (!allowed.IsEmpty) Forbid(values, allowed);
        var best = ArgMax(values);
        var top = values[best];
        // NaN or nothing but -infinity would come from a broken model; any token of the vocabulary keeps the stream alive and the fault visible.
        if (!(top > float.NegativeInfinity)) best = allowed.IsEmpty ? _firstDefined : First(allowed);
        if (settings.IsGreedy || !float.IsFinite(top))
        {
            _ids[0] = best;
            return _ids.AsSpan(0, 1);
        }

        TensorPrimitives.Subtract(values, top, values);
        TensorPrimitives.Divide(values, settings.Temperature, values);
        TensorPrimitives.Exp(values, values); // unnormalised: the most likely token has 1
        var count = KeepAtLeast(values, Math.Max(settings.MinP, float.Epsilon));
        isCut = (settings.TopK > 0 && settings.TopK < count) || settings.TopP < 1;
        if (settings.TopK > 0 && settings.TopK < count) count = KeepUpTo(_ranking.FindRank(values, _ids.AsSpan(0, count), settings.TopK), count);
        if (settings.TopP < 1) count = KeepUpTo(_ranking.FindSum(values, _ids.AsSpan(0, count), settings.TopP * Sum(_ids.AsSpan(0, count))), count);
        return _ids.AsSpan(0, count);
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

    private static void Forbid(Span<float> values, ReadOnlySpan<ulong> allowed)
    {
        for (var word = 0; word * 64 < values.Length; word++)
        {
            var bits = word < allowed.Length ? allowed[word] : 0;
            if (bits == ulong.MaxValue) continue;
            var part = values[(word * 64)..Math.Min(values.Length, (word + 1) * 64)];
            if (bits == 0)
            {
                part.Fill(float.NegativeInfinity);
                continue;
            }
            for (var i = 0; i < part.Length; i++)
            {
                if ((bits >> i & 1) == 0) part[i] = float.NegativeInfinity;
            }
        }
    }

    private static int First(ReadOnlySpan<ulong> allowed)
    {
        var word = allowed.IndexOfAnyExcept(0UL);
        return word < 0 ? 0 : (word * 64) + BitOperations.TrailingZeroCount(allowed[word]);
    }

    private int KeepAtLeast(ReadOnlySpan<float> weights, float least)
    {
        var count = 0;
        for (var id = 0; id < weights.Length; id++)
        {
            _ids[count] = id;
            if (weights[id] >= least) count++;
        }
        return count;
    }

    /// <summary>Keeps the candidates that are more likely than <paramref name="last"/>, those as likely with a lower id, and itself.</summary>
    private int KeepUpTo(int last, int count)
    {
        var least = _weights[last];
        var kept = 0;
        for (var i = 0; i < count; i++)
        {
            var id = _ids[i];
            _ids[kept] = id;
            if (_weights[id] > least || (_weights[id] == least && id <= last)) kept++;
        }
        return kept;
    }

    private double Sum(ReadOnlySpan<int> ids)
    {
        double sum = 0;
        foreach (var id in ids) sum += _weights[id];
        return sum;
    }

    private int Draw(ReadOnlySpan<int> ids, double target)
    {
        double sum = 0;
        foreach (var id in ids)
        {
            sum += _weights[id];
            if (sum > target) return id;
        }
        return ids[^1];
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
