namespace Ernie.Sdk.Kernels;

/// <summary>The family of kernels over sixteen lanes of one instruction set. All of them give equal bits.</summary>
internal sealed class VectorKernels<TLanes> : CpuKernels where TLanes : unmanaged, ILanes<TLanes>
{
    public override string Name => TLanes.Name;
    public override bool IsSupported => TLanes.IsSupported;

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => VectorNorm<TLanes>.Run(arguments, context);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => VectorLinear<TLanes>.Run(arguments, context);
    public override void Attention(in AttentionArguments arguments, in KernelContext context) => VectorAttention<TLanes>.Run(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in KernelContext context) => VectorExperts<TLanes>.Run(arguments, context);
}
