using Ernie.Cli.Measuring;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Benchmarks;

/// <summary>One layer of 21B-A3B: 64 experts, six a token, 2560 and 1536 wide: in bfloat16 1.5 GB of weights, of which a decode step reads 142 MB.</summary>
internal sealed unsafe class ExpertsBenchmark : IDisposable
{
    private const int Experts = 64, PerToken = 6, Hidden = 2560, Intermediate = 1536, MaxTokens = 512;
    private readonly IParallelRunner _runner;
    private readonly WeightFormat _format;
    private readonly RandomWeights _gateUp, _down;
    private readonly NativeMemoryBlock _router, _bias, _input, _output, _expected, _selected;
    private readonly ScratchBuffer _scratch = new();
    private readonly HashSet<int> _touched = [];
    private int _next;

    public ExpertsBenchmark(IParallelRunner runner, WeightFormat format)
    {
        (_runner, _format) = (runner, format);
        _gateUp = new RandomWeights(format, 2 * Experts, Intermediate, Hidden, 4, runner);
        _down = new RandomWeights(format, Experts, Hidden, Intermediate, 5, runner);
        _router = new NativeMemoryBlock((nint)Experts * Hidden * 4).FillFloat(6, 2 / MathF.Sqrt(Hidden), runner);
        _bias = new NativeMemoryBlock(Experts * 4).FillFloat(7, 0.001f, runner);
        _input = new NativeMemoryBlock((nint)MaxTokens * Hidden * 4).FillFloat(8, 1, runner);
        _output = new NativeMemoryBlock((nint)MaxTokens * Hidden * 4);
        _expected = new NativeMemoryBlock(Hidden * 4);
        _selected = new NativeMemoryBlock(MaxTokens * PerToken * 4);
    }

    /// <summary>Weights of six experts and the router.</summary>
    public double Bytes => _format.Bytes(2 * PerToken, Intermediate, Hidden) + _format.Bytes(PerToken, Hidden, Intermediate) + 4.0 * Experts * Hidden;

    /// <summary>Experts that the decode steps so far have read.</summary>
    public int DistinctExperts => _touched.Count;

    public static double FlopsOf(int tokens) => 2.0 * tokens * (PerToken * 3.0 * Hidden * Intermediate + Experts * Hidden);

    public void Next(CpuKernels kernels)
    {
        _next = (_next + 1) % MaxTokens;
        Run(kernels, _next, 1, _output.Floats);
        for (var i = 0; i < PerToken; i++) _touched.Add(((int*)_selected.Pointer)[i]);
    }

    /// <summary>Other tokens than the last call's, as far as there are.</summary>
    public void Next(CpuKernels kernels, int tokens)
    {
        _next = (_next + tokens) % (MaxTokens - tokens + 1);
        Run(kernels, _next, tokens, _output.Floats);
    }

    public void Many(CpuKernels kernels, int tokens) => Run(kernels, 0, tokens, _output.Floats);

    public double Check(CpuKernels kernels) => CheckMany(kernels, 1);

    public double CheckMany(CpuKernels kernels, int tokens)
    {
        Run(kernels, 0, tokens, _output.Floats);
        Run(KernelRegistry.Choose("reference"), tokens - 1, 1, _expected.Floats);
        return Deviation.Checked(new ReadOnlySpan<float>(_expected.Floats, Hidden), new ReadOnlySpan<float>(_output.Floats + (nint)(tokens - 1) * Hidden, Hidden), _format.IsPacked ? 5e-3 : 1e-4);
    }

    private void Run(CpuKernels kernels, int firstToken, int tokens, float* output) => kernels.Experts(new ExpertsArguments
    {
        Input = _input.Floats + (nint)firstToken * Hidden,
        TokenCount = tokens,
        HiddenSize = Hidden,
        ExpertCount = Experts,
        ExpertsPerToken = PerToken,
        IntermediateSize = Intermediate,
        NormMin = 1e-12f,
        Router = _router.Floats,
        CorrectionBias = _bias.Floats,
        ExpertEnd = Experts,
        GateUp = _gateUp.All,
        Down = _down.All,
        Output = output,
        Selected = (int*)_selected.Pointer,
    }, new KernelContext(_runner, _scratch));

    public void Dispose()
    {
        _gateUp.Dispose();
        _down.Dispose();
        foreach (var block in new[] { _router, _bias, _input, _output, _expected, _selected }) block.Dispose();
        _scratch.Dispose();
    }
}
