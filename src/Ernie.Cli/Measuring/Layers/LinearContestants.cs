using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>Inputs and outputs of a linear layer, for every contestant.</summary>
internal sealed unsafe class LinearTensors(int rows, int columns, int maxTokens, IParallelRunner runner) : IDisposable
{
    public int Rows => rows;
    public int Columns => columns;
    public NativeMemoryBlock X { get; } = new NativeMemoryBlock((nint)maxTokens * columns * 4).FillFloat(3, 1, runner); // [tokens, columns]
    public NativeMemoryBlock Y { get; } = new NativeMemoryBlock((nint)maxTokens * rows * 4); // [tokens, rows]

    public void Dispose()
    {
        X.Dispose();
        Y.Dispose();
    }

    /// <summary>The last of some tokens, by the reference.</summary>
    public float[] Reference(PackedMatrix weight, int tokens, IParallelRunner threads)
    {
        var y = new float[rows];
        using var scratch = new ScratchBuffer();
        fixed (float* output = y)
            KernelRegistry.Choose("reference").Linear(new LinearArguments { Input = X.Floats + (nint)(tokens - 1) * columns, TokenCount = 1, Weight = weight, Output = output }, new KernelContext(threads, scratch));
        return y;
    }

    public ReadOnlySpan<float> LastOutput(int tokens) => new(Y.Floats + (nint)(tokens - 1) * rows, rows);
}

internal sealed unsafe class OurLinear(string name, CpuKernels kernels, RandomWeights weights, LinearTensors tensors, OrtPool pool, IParallelRunner runner) : Contestant
{
    public override string Name => name;
    public override WeightFormat Format => weights.Format;
    public override long RotatingBytes => weights.Bytes;

    public override void Run(int tokens, int turns) => pool.Run(context =>
    {
        for (var turn = 0; turn < turns; turn++)
            kernels.Linear(new LinearArguments { Input = tensors.X.Floats, TokenCount = tokens, Weight = weights.Section(turn % weights.Sections), Output = tensors.Y.Floats }, context);
    });

    public override LayerTraffic Traffic(int tokens, int turns) => new((double)weights.Bytes / weights.Sections, 2.0 * tokens * tensors.Rows * tensors.Columns, 0);

    public override double Check(int tokens)
    {
        Run(tokens, 1);
        return Compare(tensors.Reference(weights.Section(0), tokens, runner), tensors.LastOutput(tokens), 1e-4);
    }

    public override void Dispose() => weights.Dispose();
}

/// <summary>ONNX Runtime's MatMulNBits with 8-bit activations: one graph with a node for each copy of the weights.</summary>
internal sealed unsafe class OrtLinear : Contestant
{
    private readonly LinearTensors _tensors;
    private readonly RandomWeights _first;
    private readonly IParallelRunner _runner;
    private readonly OrtGraph _graph = new();
    private readonly InferenceSession _session;
    private readonly RunOptions _options = new();
    private readonly string[] _names;
    private readonly long _bytes;

    public OrtLinear(WeightFormat format, int copies, LinearTensors tensors, int threads, IParallelRunner runner)
    {
        (Format, _tensors, _runner) = (format, tensors, runner);
        var (rows, columns) = (tensors.Rows, tensors.Columns);
        var bits = format.Kind == WeightKind.Int4 ? 4 : 8;
        using var layout = new OrtMatrix(format, 1, rows, columns);
        _first = new RandomWeights(format, 1, rows, columns, 11, runner, onRow: layout.Store);
        var x = _graph.Input("x", columns);
        _names = [.. Enumerable.Range(0, copies).Select(static i => $"y{i}")];
        foreach (var y in _names)
        {
            var codes = _graph.Weight($"{y}.codes", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, rows, columns / format.Group, format.Group * bits / 8);
            var scales = _graph.Weight($"{y}.scales", TensorElementKind.Float, layout.Scales.Pointer, layout.Scales.Bytes, (long)rows * (columns / format.Group));
            _graph.Node("MatMulNBits", y, [x, codes, scales], ("K", columns), ("N", rows), ("bits", bits), ("block_size", format.Group), ("accuracy_level", 4));
            _graph.Output(y, rows);
        }
        _bytes = layout.Codes.Bytes + layout.Scales.Bytes;
        _session = _graph.Session(threads);
    }

    public override string Name => "ORT MatMulNBits";
    public override WeightFormat Format { get; }
    public override long RotatingBytes => _bytes * _names.Length;

    public override void Run(int tokens, int turns)
    {
        // All copies in one run; a whole number of rounds.
        using var x = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, _tensors.Columns], (nint)_tensors.X.Pointer, (long)tokens * _tensors.Columns * 4);
        using var y = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, _tensors.Rows], (nint)_tensors.Y.Pointer, (long)tokens * _tensors.Rows * 4);
        OrtValue[] outputs = [.. _names.Select(_ => y)];
        for (var done = 0; done < turns; done += _names.Length) _session.Run(_options, ["x"], [x], _names, outputs);
    }

    public override LayerTraffic Traffic(int tokens, int turns) => new(_bytes, 2.0 * tokens * _tensors.Rows * _tensors.Columns, 0);

    public override double Check(int tokens)
    {
        Run(tokens, _names.Length);
        return Compare(_tensors.Reference(_first.Section(0), tokens, _runner), _tensors.LastOutput(tokens), 0.05);
    }

    public override void Dispose()
    {
        _session.Dispose();
        _options.Dispose();
        _graph.Dispose();
        _first.Dispose();
    }
}
