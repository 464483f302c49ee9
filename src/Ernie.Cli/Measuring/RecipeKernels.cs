using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>Kernels that attend with the queries, keys and values of <see cref="SegmentRecipe"/> in place of the model's: a model of random weights would ask for every block of a long context.</summary>
internal sealed unsafe class RecipeKernels(CpuKernels inner, ErnieConfig config) : CpuKernels
{
    private readonly SegmentRecipe _recipe = AttentionLayer.RecipeOf(config);

    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => inner.Linear(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in KernelContext context) => inner.Experts(arguments, context);

    public override void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        for (var t = 0; t < arguments.TokenCount; t++) _recipe.Token(arguments.Positions[t], new Span<float>(arguments.Qkv + (nint)t * config.QkvSize, config.QkvSize));
        inner.Attention(arguments, context);
    }
}
