namespace Ernie.Sdk.Kernels;

//  Router
//      logits   [experts]  float, of one token
//      bias     [experts]  float
//      chosen   [k]        int      experts in order of p + bias, ties to the lower index
//      weights  [k]        float    p / max(Σ p of the chosen, normMin)
//  Math       p = softmax(logits) over all experts; a score p + bias that is NaN counts as -∞, so a broken token still chooses k different experts
//  Source     ERNIE 4.5 in transformers (Ernie4_5_MoeTopKRouter)
//  Reference  Kernels/Reference/ReferenceExperts.cs
//  Tolerance  weights 1e-6; the choice is equal unless two scores differ by rounding
internal static unsafe class VectorRouter<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;

    /// <summary>Turns <paramref name="logits"/> into probabilities in place and chooses.</summary>
    public static void Route(float* logits, int expertCount, float* bias, float normMin, Span<int> chosen, Span<float> weights)
    {
        Softmax(logits, expertCount);
        float sum = 0;
        for (var rank = 0; rank < chosen.Length; rank++)
        {
            var best = -1;
            var bestScore = float.NegativeInfinity;
            for (var e = 0; e < expertCount; e++)
            {
                var score = logits[e] + bias[e];
                if (float.IsNaN(score)) score = float.NegativeInfinity;
                if ((best < 0 || score > bestScore) && !chosen[..rank].Contains(e))
                {
                    best = e;
                    bestScore = score;
                }
            }
            chosen[rank] = best;
            weights[rank] = logits[best];
            sum += logits[best];
        }
        var divisor = Math.Max(sum, normMin);
        for (var rank = 0; rank < chosen.Length; rank++) weights[rank] /= divisor;
    }

    private static void Softmax(float* values, int count)
    {
        var max = float.NegativeInfinity;
        for (var e = 0; e < count; e++)
        {
            if (max < values[e]) max = values[e];
        }
        var shift = TLanes.Broadcast(max);
        var sums = TLanes.Zero;
        for (var e = 0; e < count; e += Lanes)
        {
            var left = count - e;
            var lanes = left >= Lanes ? TLanes.Load(values + e) : LaneMath<TLanes>.LoadFirst(values + e, left, float.NegativeInfinity);
            var exponentials = LaneMath<TLanes>.Exp(TLanes.Subtract(lanes, shift));
            sums = TLanes.Add(sums, exponentials);
            if (left >= Lanes) TLanes.Store(exponentials, values + e);
            else LaneMath<TLanes>.StoreFirst(exponentials, values + e, left);
        }
        var total = LaneMath<TLanes>.Sum(sums);
        for (var e = 0; e < count; e++) values[e] /= total;
    }
}
