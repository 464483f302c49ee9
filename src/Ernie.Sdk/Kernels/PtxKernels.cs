using Ernie.Sdk.Native;

namespace Ernie.Sdk.Kernels;

/// <summary>The kernels that this assembly carries as PTX, launched on a GPU.</summary>
/// <param name="modules">The compiled files; disposed by who made them.</param>
internal sealed class PtxKernels(CudaModules modules) : CudaKernels
{
    private readonly StreamLauncher _launcher = new(modules);

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in CudaKernelContext context) => On(context).AddRmsNorm(arguments);
    public override void Linear(in LinearArguments arguments, in CudaKernelContext context) => On(context).Linear(arguments);
    public override unsafe void Attention(in AttentionArguments arguments, in CudaKernelContext context) => On(context).Attention(arguments, context.Rope);
    public override void Experts(in ExpertsArguments arguments, in CudaKernelContext context) => On(context).Experts(arguments);
    public override void Route(in ExpertsArguments arguments, in CudaKernelContext context) => On(context).Route(arguments);
    public override unsafe void AddPartial(float* part, in ExpertsArguments arguments, in CudaKernelContext context) => On(context).AddPartial(part, arguments);

    private CudaLaunches On(in CudaKernelContext context)
    {
        _launcher.Begin(context.Stream, context.Workspace);
        return new CudaLaunches(_launcher, context.Step);
    }
}

/// <summary>Launches on one stream, with the workspace of one call of an operator.</summary>
internal sealed unsafe class StreamLauncher(CudaModules modules) : ICudaLauncher
{
    private nint _stream;
    private CudaWorkspace? _workspace;

    public void Begin(nint stream, CudaWorkspace workspace)
    {
        (_stream, _workspace) = (stream, workspace);
        workspace.Reset();
    }

    public void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
    {
        var addresses = stackalloc nint[parameters.Length];
        fixed (CudaParameter* values = parameters)
        {
            for (var i = 0; i < parameters.Length; i++) addresses[i] = (nint)(values + i);
            modules.Function(file, kernel).Launch(new CudaSize((uint)grid.X, (uint)grid.Y, (uint)grid.Z), new CudaSize((uint)threads), sharedBytes, _stream, new ReadOnlySpan<nint>(addresses, parameters.Length));
        }
    }

    public void* Scratch(long bytes) => _workspace!.Rent(bytes);
    public void* Keep(long bytes) => _workspace!.Keep(bytes);
}
