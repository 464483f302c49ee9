using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>One product with seeded operands. <see cref="Run(CpuKernels, IParallelRunner)"/> may be called for many kernels.</summary>
internal sealed unsafe class LinearCase : IDisposable
{
    private readonly int _tokens, _columns;
    private readonly bool _swiGlu;
    private readonly NativeArray<float> _input;
    private readonly NativeArray<byte> _weight;
    private readonly PackedMatrix _matrix;

    public LinearCase(int seed, int tokens, int rows, int columns, WeightFormat format, bool swiGlu, double scale = 2)
    {
        var random = new Random(seed);
        (_tokens, _columns, _swiGlu) = (tokens, columns, swiGlu);
        var sections = swiGlu ? 2 : 1;
        _input = NativeArray<float>.From(RandomTensor.Floats(random, tokens * columns, 2));
        _weight = RandomTensor.Weight(random, sections, rows / sections, columns, format, scale / Math.Sqrt(columns));
        _matrix = new PackedMatrix(format, _weight.Pointer, rows, columns, rows / sections);
    }

    public float[] Run(CpuKernels kernels, IParallelRunner runner) => Run(kernels, runner, 0, _tokens);

    /// <summary>Only tokens [begin, end).</summary>
    public float[] Run(CpuKernels kernels, IParallelRunner runner, int begin, int end)
    {
        using var scratch = new ScratchBuffer();
        var arguments = new LinearArguments
        {
            Input = _input.Pointer + (nint)begin * _columns,
            TokenCount = end - begin,
            Weight = _matrix,
            SwiGlu = _swiGlu,
        };
        using var output = new NativeArray<float>((end - begin) * arguments.OutputSize);
        output.Span.Fill(float.NaN);
        arguments.Output = output.Pointer;
        kernels.Linear(arguments, new KernelContext(runner, scratch));
        return output.Span.ToArray();
    }

    public void Dispose()
    {
        _input.Dispose();
        _weight.Dispose();
    }
}
