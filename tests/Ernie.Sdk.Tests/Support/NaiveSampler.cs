using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Temperature, softmax, min-p, top-k, top-p and draw in double, by sorting. No thought is given to speed.</summary>
internal static class NaiveSampler
{
    /// <summary>Relative distance to a boundary below which float weights may fall on the other side of it.</summary>
    private const double Close = 1e-5;

    /// <summary>Kept ids, the most likely first, equal ones by id; and whether a boundary is too close to tell.</summary>
    public static (int[] Kept, bool IsClose) Candidates(float[] logits, SamplingSettings settings)
    {
        var weights = Weights(logits, settings);
        var isClose = weights.Any(weight => settings.MinP > 0 && weight != 1 && Math.Abs(weight / settings.MinP - 1) < Close);
        // Float weights of distinct logits may be equal; then their order is by id.
        int[] order = [.. Enumerable.Range(0, logits.Length).Where(id => weights[id] >= Math.Max(settings.MinP, float.Epsilon)).OrderByDescending(id => weights[id]).ThenBy(static id => id)];
        if (settings.TopK > 0 && settings.TopK < order.Length)
        {
            isClose |= IsNear(weights[order[settings.TopK - 1]], weights[order[settings.TopK]]);
            order = order[..settings.TopK];
        }
        if (settings.TopP < 1)
        {
            var total = order.Sum(id => weights[id]);
            double sum = 0;
            var count = 0;
            while (count < order.Length && sum < settings.TopP * total)
            {
                sum += weights[order[count++]];
                isClose |= Math.Abs(sum / (settings.TopP * total) - 1) < Close;
            }
            if (count < order.Length) isClose |= IsNear(weights[order[count - 1]], weights[order[count]]);
            order = order[..count];
        }
        return (order, isClose);
    }

    /// <summary>The token of a draw, or null where it is too close to a boundary to tell.</summary>
    public static int? Draw(float[] logits, SamplingSettings settings, int draw)
    {
        var (kept, isClose) = Candidates(logits, settings);
        if (isClose) return null;
        var weights = Weights(logits, settings);
        var all = logits.Length;
        var atLeast = Enumerable.Range(0, all).Count(id => weights[id] >= Math.Max(settings.MinP, float.Epsilon));
        var isCut = settings.TopP < 1 || (settings.TopK > 0 && settings.TopK < atLeast);
        var target = Sampler.Uniform(settings.Seed, draw) * kept.Sum(id => weights[id]);
        double sum = 0;
        foreach (var id in isCut ? kept : [.. kept.Order()])
        {
            sum += weights[id];
            if (Math.Abs(sum - target) < Close) return null;
            if (sum > target) return id;
        }
        return null;
    }

    private static double[] Weights(float[] logits, SamplingSettings settings)
    {
        double top = logits.Max();
        return [.. logits.Select(logit => Math.Exp((logit - top) / settings.Temperature))];
    }

    private static bool IsNear(double a, double b) => a != b && Math.Abs(a - b) < Close * a;
}
