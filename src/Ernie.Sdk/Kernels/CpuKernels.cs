namespace Ernie.Sdk.Kernels;

/// <summary>
/// One family of CPU kernels: an implementation of every operator. All families obey the same rules: an output element adds its products in one fixed order
/// whatever the number of tokens, threads or neighbours; a token's experts are summed in rank order; attention visits the blocks of a sequence in order.
/// </summary>
internal abstract class CpuKernels
{
    /// <summary>Name for <c>ERNIE_KERNELS</c>, logs and benchmarks.</summary>
    public abstract string Name { get; }

    /// <summary>Whether this machine can run the family.</summary>
    public abstract bool IsSupported { get; }

    public abstract void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context);
    public abstract void Linear(in LinearArguments arguments, in KernelContext context);
    public abstract void Attention(in AttentionArguments arguments, in KernelContext context);
    public abstract void Experts(in ExpertsArguments arguments, in KernelContext context);
}
