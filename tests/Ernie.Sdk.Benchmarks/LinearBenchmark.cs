using Ernie.Cli.Measuring;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Benchmarks;

/// <summary>One weight shape; calls rotate over copies, so that no cache holds the weights of the next call.</summary>
internal sealed unsafe class LinearBenchmark : IDisposable
{
    private const int MaxTokens = 512;
    private readonly IParallelRunner _runner;
    private readonly int _columns, _rows, _copies;
    private readonly WeightFormat _format;
    private readonly RandomWeights _weights;
    private readonly NativeMemoryBlock _input, _output, _expected;
    private readonly ScratchBuffer _scratch = new();
    private int _next;

    public LinearBenchmark(IParallelRunner runner, int columns, int rows, int copies, WeightFormat format)
    {
        (_runner, _columns, _rows, _copies, _format) = (runner, columns, rows, copies, format);
        _weights = new RandomWeights(format, copies, rows, columns, 2, runner);
        _input = new NativeMemoryBlock((nint)MaxTokens * columns * 4).FillFloat(3, 1, runner);
        _output = new NativeMemoryBlock((nint)MaxTokens * rows * 4);
        _expected = new NativeMemoryBlock((nint)rows * 4);
    }

    /// <summary>Weights of one call.</summary>
    public double Bytes => _format.Bytes(1, _rows, _columns);

    public double FlopsOf(int tokens) => 2.0 * tokens * _rows * _columns;

    public void Next(CpuKernels kernels) => Next(kernels, 1);

    public void Next(CpuKernels kernels, int tokens)
    {
        _next = (_next + 1) % _copies;
        Run(kernels, _next, 0, tokens, _output.Floats);
    }

    public void Many(CpuKernels kernels, int tokens) => Run(kernels, 0, 0, tokens, _output.Floats);

    public double Check(CpuKernels kernels)
    {
        Run(kernels, 0, 0, 1, _output.Floats);
        return Difference(0);
    }

    /// <summary>Checks the last token of many; the reference would need minutes for all.</summary>
    public double CheckMany(CpuKernels kernels, int tokens)
    {
        Run(kernels, 0, 0, tokens, _output.Floats);
        return Difference(tokens - 1);
    }

    private double Difference(int token)
    {
        Run(KernelRegistry.Choose("reference"), 0, token, 1, _expected.Floats);
        return Deviation.Checked(new ReadOnlySpan<float>(_expected.Floats, _rows), new ReadOnlySpan<float>(_output.Floats + (nint)token * _rows, _rows), 1e-4);
    }

    private void Run(CpuKernels kernels, int copy, int firstToken, int tokens, float* output) => kernels.Linear(new LinearArguments
    {
        Input = _input.Floats + (nint)firstToken * _columns,
        TokenCount = tokens,
        Weight = _weights.Section(copy),
        Output = output,
    }, new KernelContext(_runner, _scratch));

    public void Dispose()
    {
        _weights.Dispose();
        _input.Dispose();
        _output.Dispose();
        _expected.Dispose();
        _scratch.Dispose();
    }
}
