using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Kernels that tell a test before each call, so that it can cancel or fail a step at a chosen place.</summary>
internal sealed class HookedKernels(CpuKernels inner, Action<string> before) : CpuKernels
{
    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context)
    {
        before(nameof(AddRmsNorm));
        inner.AddRmsNorm(arguments, context);
    }

    public override void Linear(in LinearArguments arguments, in KernelContext context)
    {
        before(nameof(Linear));
        inner.Linear(arguments, context);
    }

    public override void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        before(nameof(Attention));
        inner.Attention(arguments, context);
    }

    public override void Experts(in ExpertsArguments arguments, in KernelContext context)
    {
        before(nameof(Experts));
        inner.Experts(arguments, context);
    }
}
