namespace Ernie.Sdk.Kernels;

/// <summary>The specification of every operator: scalar loops that read like the formula, sums in double. No thought is given to speed.</summary>
internal sealed class ReferenceKernels : CpuKernels
{
    public override string Name => "reference";
    public override bool IsSupported => true;

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => ReferenceNorm.Run(arguments);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => ReferenceLinear.Run(arguments, context);
    public override void Attention(in AttentionArguments arguments, in KernelContext context) => ReferenceAttention.Run(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in KernelContext context) => ReferenceExperts.Run(arguments, context);
}
