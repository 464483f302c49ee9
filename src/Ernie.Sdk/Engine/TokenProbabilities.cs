using System.Numerics.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>How likely a token was to the model itself, before penalties, temperature and truncation.</summary>
/// <param name="Chosen">Natural logarithm of the chosen token's probability.</param>
/// <param name="Top">The likeliest tokens, the first first.</param>
internal sealed record TokenProbabilities(float Chosen, (int Id, float LogProbability)[] Top)
{
    /// <param name="logits">[vocabulary].</param>
    /// <param name="token">The chosen one.</param>
    /// <param name="top">How many of the likeliest.</param>
    public static TokenProbabilities Of(ReadOnlySpan<float> logits, int token, int top)
    {
        var max = TensorPrimitives.Max(logits);
        double sum = 0;
        foreach (var logit in logits) sum += Math.Exp(logit - max);
        var normaliser = max + Math.Log(sum);

        var best = new PriorityQueue<int, (float Logit, int Id)>();
        for (var id = 0; id < logits.Length && top > 0; id++)
        {
            if (best.Count == top && best.TryPeek(out _, out var least) && logits[id] <= least.Logit) continue;
            // Of equals the lower id stays.
            best.Enqueue(id, (logits[id], -id));
            if (best.Count > top) best.Dequeue();
        }
        var ranked = new (int Id, float LogProbability)[best.Count];
        for (var i = ranked.Length - 1; i >= 0; i--)
        {
            var id = best.Dequeue();
            ranked[i] = (id, (float)(logits[id] - normaliser));
        }
        return new TokenProbabilities((float)(logits[token] - normaliser), ranked);
    }
}
