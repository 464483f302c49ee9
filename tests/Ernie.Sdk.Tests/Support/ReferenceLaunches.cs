using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// GPU kernels that are reference kernels, done when they return, for a GPU whose memory the CPU can read. Weights and angles must be memory of the driver without a GPU.
/// </summary>
internal sealed unsafe class ReferenceLaunches(FakeCuda fake) : CudaKernels
{
    private readonly ReferenceKernels _kernels = new();
    private readonly KernelContext _context = new(SerialRunner.Instance, new ScratchBuffer());

    public int Linears { get; private set; }
    public int Attentions { get; private set; }
    public int ExpertLayers { get; private set; }
    public bool Fails { get; set; }
    public int ScratchBytes { get; init; } = 100;
    /// <summary>The provider's stream; the CPU's has none.</summary>
    public nint Stream { get; init; }
    /// <summary>Whether an address is memory of the provider; null where that is the CPU's.</summary>
    public Func<nint, bool>? IsProvidersMemory { get; init; }

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in CudaKernelContext context)
    {
        Assert.True(fake.IsDeviceMemory(arguments.Weight, (long)arguments.Columns * sizeof(float)), "weight was not sent to the GPU.");
        AssertIsProviders(("input", (nint)arguments.Input), ("output", (nint)arguments.Output));
        _kernels.AddRmsNorm(arguments, _context);
    }

    public override void Linear(in LinearArguments arguments, in CudaKernelContext context)
    {
        Linears++;
        if (Fails) throw new InvalidOperationException("The launch failed.");
        AssertIsSent("weight", arguments.Weight);
        AssertIsProviders(("input", (nint)arguments.Input), ("output", (nint)arguments.Output));
        Assert.Equal(Stream, context.Stream);
        context.Workspace.Reset();
        var scratch = context.Workspace.Rent(ScratchBytes);
        Assert.True(fake.IsDeviceMemory(scratch, ScratchBytes));
        new Span<byte>(scratch, ScratchBytes).Fill(1);
        _kernels.Linear(arguments, _context);
    }

    public override void Attention(in AttentionArguments arguments, in CudaKernelContext context)
    {
        Attentions++;
        AssertIsProviders(
            ("qkv", (nint)arguments.Qkv), ("positions", (nint)arguments.Positions), ("starts", (nint)arguments.SequenceStarts), ("flags", (nint)arguments.Flags),
            ("tables", (nint)arguments.BlockTables), ("limits", (nint)arguments.Limits), ("pool", (nint)arguments.Pool), ("output", (nint)arguments.Output));
        var row = arguments.HeadDim;
        Assert.True(fake.IsDeviceMemory(context.Rope, (long)arguments.Rope.PositionCount * row * sizeof(float)));
        arguments.Rope.Ensure(arguments.Positions[0]);
        Assert.Equal(arguments.Rope.Row(arguments.Positions[0]).ToArray(), new ReadOnlySpan<float>(context.Rope + (long)arguments.Positions[0] * row, row).ToArray());
        _kernels.Attention(arguments, _context);
    }

    public override void Experts(in ExpertsArguments arguments, in CudaKernelContext context)
    {
        ExpertLayers++;
        AssertIsSent("gate_up", arguments.GateUp);
        AssertIsSent("down", arguments.Down);
        AssertIsProviders(("input", (nint)arguments.Input), ("output", (nint)arguments.Output));
        Assert.True(fake.IsDeviceMemory(arguments.Router, (long)arguments.ExpertCount * arguments.HiddenSize * sizeof(float)));
        Assert.True(fake.IsDeviceMemory(arguments.CorrectionBias, (long)arguments.ExpertCount * sizeof(float)));
        _kernels.Experts(arguments, _context);
    }

    public override void Route(in ExpertsArguments arguments, in CudaKernelContext context)
    {
        var a = arguments;
        // Of no expert: the routing alone.
        (a.ExpertBegin, a.ExpertEnd) = (0, 0);
        var output = new float[a.TokenCount * a.HiddenSize];
        fixed (float* o = output)
        {
            a.Output = o;
            _kernels.Experts(a, _context);
        }
    }

    public override void AddPartial(float* part, in ExpertsArguments arguments, in CudaKernelContext context)
    {
        for (nint i = 0; i < (nint)arguments.TokenCount * arguments.HiddenSize; i++) arguments.Output[i] += part[i];
    }

    private void AssertIsSent(string name, PackedMatrix matrix) =>
        Assert.True(fake.IsDeviceMemory(matrix.Data, matrix.Format.Bytes(matrix.Rows / matrix.SectionRows, matrix.SectionRows, matrix.Columns)), $"{name} was not sent to the GPU.");

    private void AssertIsProviders(params ReadOnlySpan<(string Name, nint Address)> arguments)
    {
        foreach (var (name, address) in arguments) Assert.True(IsProvidersMemory?.Invoke(address) ?? true, $"{name} is not in the provider's memory.");
    }
}
