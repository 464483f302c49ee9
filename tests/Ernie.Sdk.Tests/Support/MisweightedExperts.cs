using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Kernels that select experts as they should and then weigh them wrongly.</summary>
/// <param name="inner">Right kernels.</param>
/// <param name="weigh">Wrong weights of a token's chosen experts, from their probabilities and correction biases.</param>
internal sealed unsafe class MisweightedExperts(CpuKernels inner, Func<double[], double[], double[]> weigh) : CpuKernels
{
    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;
    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => inner.Linear(arguments, context);
    public override void Attention(in AttentionArguments arguments, in KernelContext context) => inner.Attention(arguments, context);

    public override void Experts(in ExpertsArguments arguments, in KernelContext context)
    {
        var a = arguments;
        using var selected = new NativeArray<int>(a.ExpertsPerToken);
        using var weights = new NativeArray<float>(a.ExpertsPerToken);
        using var partial = new NativeArray<float>(a.HiddenSize);
        for (var t = 0; t < arguments.TokenCount; t++)
        {
            var one = arguments;
            one.Input += (nint)t * a.HiddenSize;
            one.TokenCount = 1;
            one.Output = partial.Pointer;
            one.Selected = selected.Pointer;
            one.Weights = weights.Pointer;
            inner.Experts(one, context);
            int[] chosen = [.. selected.Span];
            if (a.Selected != null) selected.Span.CopyTo(new Span<int>(a.Selected + (nint)t * a.ExpertsPerToken, a.ExpertsPerToken));
            float[] right = [.. weights.Span];
            var wrong = weigh([.. chosen.Select(e => Probability(a, one.Input, e))], [.. chosen.Select(e => (double)a.CorrectionBias[e])]);

            var output = new Span<float>(a.Output + (nint)t * a.HiddenSize, a.HiddenSize);
            output.Clear();
            for (var rank = 0; rank < chosen.Length; rank++)
            {
                // A range of one expert gives that expert's output times its right weight.
                (one.ExpertBegin, one.ExpertEnd) = (chosen[rank], chosen[rank] + 1);
                one.GateUp = a.GateUp.Slice((nint)chosen[rank] * 2 * a.IntermediateSize, 2 * a.IntermediateSize);
                one.Down = a.Down.Slice((nint)chosen[rank] * a.HiddenSize, a.HiddenSize);
                inner.Experts(one, context);
                for (var n = 0; n < a.HiddenSize; n++) output[n] += (float)(partial.Pointer[n] * wrong[rank] / right[rank]);
            }
        }
    }

    private static double Probability(ExpertsArguments a, float* x, int expert)
    {
        var logits = new double[a.ExpertCount];
        for (var e = 0; e < a.ExpertCount; e++)
        {
            for (var k = 0; k < a.HiddenSize; k++) logits[e] += (double)a.Router[(nint)e * a.HiddenSize + k] * x[k];
        }
        return 1 / logits.Sum(logit => Math.Exp(logit - logits[expert]));
    }
}
