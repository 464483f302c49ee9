namespace Ernie.Sdk.Kernels;

//  Router and experts
//      x        [tokens, hidden]                                    float
//      router   [experts, hidden], bias [experts]                   float
//      gateUp   [range · 2 · intermediate, hidden]                  any format   per expert: gate rows, then up rows
//      down     [range · hidden, intermediate]                      any format
//      y        [tokens, hidden]                                    float
//  Math       p = softmax(x · routerᵀ) over all experts;  S = top-k of p + bias, ties to the lower index, NaN counts as -∞
//             w = p[S] / max(Σ p[S], normMin), without the bias;  y = Σ over S in rank order, inside the range, of w · down(silu(gate(x)) · up(x))
//  Source     ERNIE 4.5 in transformers (Ernie4_5_MoeTopKRouter, Ernie4_5_MoeExperts); capacity and token dropping are training only
//  Reference  this file
//             With packed weights the inputs of both products are replaced by their quantised form (QuantizedActivations).
//  Tolerance  the definition: sums in double; logits, probabilities and weights are rounded to float, as the router is float everywhere
internal static unsafe class ReferenceExperts
{
    public static void Run(ExpertsArguments a, KernelContext context) => context.Parallel.For(a.TokenCount, t =>
    {
        var x = a.Input + (nint)t * a.HiddenSize;
        var probabilities = a.Router == null ? [] : Probabilities(a, x);
        var selected = a.Router == null ? new ReadOnlySpan<int>(a.Selected + (nint)t * a.ExpertsPerToken, a.ExpertsPerToken).ToArray() : Select(a, probabilities);
        var weights = a.Router == null ? new ReadOnlySpan<float>(a.Weights + (nint)t * a.ExpertsPerToken, a.ExpertsPerToken).ToArray() : Weights(a, probabilities, selected);

        var sum = new double[a.HiddenSize];
        for (var rank = 0; rank < a.ExpertsPerToken; rank++)
        {
            if (selected[rank] < a.ExpertBegin || selected[rank] >= a.ExpertEnd) continue;
            var output = Expert(a, selected[rank] - a.ExpertBegin, x);
            for (var n = 0; n < a.HiddenSize; n++) sum[n] += weights[rank] * output[n];
        }
        for (var n = 0; n < a.HiddenSize; n++) a.Output[(nint)t * a.HiddenSize + n] = (float)sum[n];

        for (var rank = 0; rank < a.ExpertsPerToken; rank++)
        {
            if (a.Selected != null) a.Selected[(nint)t * a.ExpertsPerToken + rank] = selected[rank];
            if (a.Weights != null) a.Weights[(nint)t * a.ExpertsPerToken + rank] = weights[rank];
        }
    });

    private static float[] Probabilities(in ExpertsArguments a, float* x)
    {
        var logits = new double[a.ExpertCount];
        for (var e = 0; e < a.ExpertCount; e++)
        {
            double sum = 0;
            for (var k = 0; k < a.HiddenSize; k++) sum += (double)a.Router[(nint)e * a.HiddenSize + k] * x[k];
            logits[e] = (float)sum;
        }
        var max = logits.Max();
        var exponentials = logits.Select(logit => Math.Exp(logit - max)).ToArray();
        var total = exponentials.Sum();
        return [.. exponentials.Select(value => (float)(value / total))];
    }

    private static int[] Select(in ExpertsArguments a, float[] probabilities)
    {
        var selected = new int[a.ExpertsPerToken];
        var taken = new bool[a.ExpertCount];
        for (var rank = 0; rank < selected.Length; rank++)
        {
            var best = -1;
            var bestScore = float.NegativeInfinity;
            for (var e = 0; e < a.ExpertCount; e++)
            {
                var score = probabilities[e] + a.CorrectionBias[e];
                if (float.IsNaN(score)) score = float.NegativeInfinity;
                if (taken[e] || (best >= 0 && score <= bestScore)) continue;
                best = e;
                bestScore = score;
            }
            taken[best] = true;
            selected[rank] = best;
        }
        return selected;
    }

    private static float[] Weights(in ExpertsArguments a, float[] probabilities, int[] selected)
    {
        double sum = 0;
        foreach (var e in selected) sum += probabilities[e];
        var divisor = Math.Max(sum, a.NormMin);
        return [.. selected.Select(e => (float)(probabilities[e] / divisor))];
    }

    /// <summary>One expert of the stack, counted from the range's begin: [hidden].</summary>
    private static double[] Expert(in ExpertsArguments a, int expert, float* x)
    {
        var input = ReferenceLinear.Activations(a.GateUp.Format, new ReadOnlySpan<float>(x, a.HiddenSize));
        var row = new float[a.HiddenSize];
        // The activation is rounded to float, as it is stored between the two products everywhere.
        var activation = new float[a.IntermediateSize];
        var firstGate = (nint)expert * 2 * a.IntermediateSize;
        for (var i = 0; i < a.IntermediateSize; i++)
        {
            ReferenceLinear.Weights(a.GateUp, firstGate + i, row);
            var gate = ReferenceLinear.Dot(row, input);
            ReferenceLinear.Weights(a.GateUp, firstGate + a.IntermediateSize + i, row);
            activation[i] = (float)(ReferenceLinear.Silu(gate) * ReferenceLinear.Dot(row, input));
        }
        activation = ReferenceLinear.Activations(a.Down.Format, activation);
        row = new float[a.IntermediateSize];
        var output = new double[a.HiddenSize];
        for (var n = 0; n < a.HiddenSize; n++)
        {
            ReferenceLinear.Weights(a.Down, (nint)expert * a.HiddenSize + n, row);
            output[n] = ReferenceLinear.Dot(row, activation);
        }
        return output;
    }
}
