using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>As <see cref="RecipeKernels"/> on a GPU. Attention reads the recipe's rows, which stay where they are, in place of the model's: nothing is copied in a step, and captured steps see what the rows hold then.</summary>
internal sealed unsafe class CardRecipeKernels(CudaKernels inner, CudaMemory rows) : CudaKernels
{
    public override void AddRmsNorm(in AddRmsNormArguments arguments, in CudaKernelContext context) => inner.AddRmsNorm(arguments, context);
    public override void Linear(in LinearArguments arguments, in CudaKernelContext context) => inner.Linear(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in CudaKernelContext context) => inner.Experts(arguments, context);
    public override void Route(in ExpertsArguments arguments, in CudaKernelContext context) => inner.Route(arguments, context);
    public override void AddPartial(float* part, in ExpertsArguments arguments, in CudaKernelContext context) => inner.AddPartial(part, arguments, context);

    public override void Attention(in AttentionArguments arguments, in CudaKernelContext context)
    {
        var recipe = arguments;
        recipe.Qkv = (float*)rows.Address;
        inner.Attention(recipe, context);
    }

    /// <summary>Bytes of the rows of so many tokens.</summary>
    public static long Bytes(ErnieConfig config, int tokens) => (long)tokens * config.QkvSize * sizeof(float);

    /// <summary>Fills the rows [sequences · tokens, q | k | v] of tokens that begin at a position, the same of every sequence.</summary>
    public static void Fill(CudaMemory rows, CudaStream stream, ErnieConfig config, int sequences, int tokens, int position)
    {
        var (recipe, size) = (AttentionLayer.RecipeOf(config), config.QkvSize);
        var values = new float[sequences * tokens * size];
        Parallel.For(0, tokens, t => recipe.Token(position + t, values.AsSpan(t * size, size)));
        for (var s = 1; s < sequences; s++) values.AsSpan(0, tokens * size).CopyTo(values.AsSpan(s * tokens * size));
        fixed (float* from = values) rows.CopyFrom(from, (long)values.Length * sizeof(float), 0, stream);
        stream.Synchronize();
    }
}
