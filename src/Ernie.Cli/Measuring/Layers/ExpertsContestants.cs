using System.Numerics.Tensors;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>Shape of the routed experts of one layer.</summary>
internal sealed record ExpertsShape(int Hidden, int Intermediate, int Experts, int PerToken);

/// <summary>Router, inputs and outputs of one layer of experts, for every contestant.</summary>
internal sealed unsafe class ExpertsTensors(ExpertsShape shape, int maxTokens, IParallelRunner runner) : IDisposable
{
    /// <summary>Tokens beyond a call's, so that each turn has others.</summary>
    private const int Spare = 512;
    public ExpertsShape Shape => shape;
    public NativeMemoryBlock X { get; } = new NativeMemoryBlock((nint)(maxTokens + Spare) * shape.Hidden * 4).FillFloat(8, 1, runner); // [tokens, hidden]
    public NativeMemoryBlock Y { get; } = new((nint)maxTokens * shape.Hidden * 4); // [tokens, hidden]
    public NativeMemoryBlock Router { get; } = new NativeMemoryBlock((nint)shape.Experts * shape.Hidden * 4).FillFloat(6, 2 / MathF.Sqrt(shape.Hidden), runner); // [experts, hidden]
    public NativeMemoryBlock Bias { get; } = new NativeMemoryBlock(shape.Experts * 4).FillFloat(7, 0.001f, runner); // [experts]
    public NativeMemoryBlock Selected { get; } = new((nint)maxTokens * shape.PerToken * 4); // [tokens, experts per token]

    /// <summary>The first token of a turn.</summary>
    public static int First(int turn, int tokens) => (int)((long)turn * tokens % Spare);

    public ExpertsArguments Arguments(RandomWeights gateUp, RandomWeights down, int first, int tokens, float* output) => new()
    {
        Input = X.Floats + (nint)first * shape.Hidden,
        TokenCount = tokens,
        HiddenSize = shape.Hidden,
        ExpertCount = shape.Experts,
        ExpertsPerToken = shape.PerToken,
        IntermediateSize = shape.Intermediate,
        NormMin = 1e-12f,
        Router = Router.Floats,
        CorrectionBias = Bias.Floats,
        ExpertEnd = shape.Experts,
        GateUp = gateUp.All,
        Down = down.All,
        Output = output,
        Selected = (int*)Selected.Pointer,
    };

    /// <summary>The last of some tokens of the first turn, by the reference.</summary>
    public float[] Reference(RandomWeights gateUp, RandomWeights down, int tokens, IParallelRunner threads)
    {
        var y = new float[shape.Hidden];
        using var scratch = new ScratchBuffer();
        fixed (float* output = y) KernelRegistry.Choose("reference").Experts(Arguments(gateUp, down, tokens - 1, 1, output), new KernelContext(threads, scratch));
        return y;
    }

    public ReadOnlySpan<float> LastOutput(int tokens) => new(Y.Floats + (nint)(tokens - 1) * shape.Hidden, shape.Hidden);

    /// <summary>Experts that a turn reads, on average over the turns of a run.</summary>
    public double DistinctExperts(int tokens, int turns)
    {
        var counted = Math.Min(turns, 64);
        var distinct = 0;
        var probabilities = new double[shape.Experts];
        for (var turn = 0; turn < counted; turn++)
        {
            var seen = new HashSet<int>();
            for (var t = 0; t < tokens && seen.Count < shape.Experts; t++)
            {
                var x = new ReadOnlySpan<float>(X.Floats + (nint)(First(turn, tokens) + t) * shape.Hidden, shape.Hidden);
                for (var e = 0; e < shape.Experts; e++) probabilities[e] = TensorPrimitives.Dot(x, new ReadOnlySpan<float>(Router.Floats + (nint)e * shape.Hidden, shape.Hidden));
                var largest = probabilities.Max();
                var sum = probabilities.Sum(p => Math.Exp(p - largest));
                seen.UnionWith(Enumerable.Range(0, shape.Experts).OrderByDescending(e => Math.Exp(probabilities[e] - largest) / sum + Bias.Floats[e]).Take(shape.PerToken));
            }
            distinct += seen.Count;
        }
        return (double)distinct / counted;
    }

    public double Operations(int tokens) => 2.0 * tokens * (3.0 * shape.PerToken * shape.Hidden * shape.Intermediate + (double)shape.Experts * shape.Hidden);

    public double RouterBytes => 4.0 * shape.Experts * (shape.Hidden + 1);

    public void Dispose()
    {
        foreach (var block in new[] { X, Y, Router, Bias, Selected }) block.Dispose();
    }
}

internal sealed unsafe class OurExperts(string name, CpuKernels kernels, RandomWeights gateUp, RandomWeights down, ExpertsTensors tensors, OrtPool pool, IParallelRunner runner) : Contestant
{
    public override string Name => name;
    public override WeightFormat Format => gateUp.Format;
    public override long RotatingBytes => gateUp.Bytes + down.Bytes;

    public override void Run(int tokens, int turns) => pool.Run(context =>
    {
        for (var turn = 0; turn < turns; turn++) kernels.Experts(tensors.Arguments(gateUp, down, ExpertsTensors.First(turn, tokens), tokens, tensors.Y.Floats), context);
    });

    public override LayerTraffic Traffic(int tokens, int turns)
    {
        var distinct = tensors.DistinctExperts(tokens, turns);
        return new LayerTraffic(distinct * RotatingBytes / tensors.Shape.Experts + tensors.RouterBytes, tensors.Operations(tokens), distinct);
    }

    public override double Check(int tokens)
    {
        Run(tokens, 1);
        return Compare(tensors.Reference(gateUp, down, tokens, runner), tensors.LastOutput(tokens), 1e-3);
    }

    public override void Dispose()
    {
        gateUp.Dispose();
        down.Dispose();
    }
}

/// <summary>ONNX Runtime's QMoE with 8-bit activations behind a router of its own operators: the same function.</summary>
internal sealed unsafe class OrtExperts : Contestant
{
    private readonly ExpertsTensors _tensors;
    private readonly IParallelRunner _runner;
    private readonly RandomWeights _gateUp, _down;
    private readonly OrtGraph _graph = new();
    private readonly InferenceSession _session;
    private readonly RunOptions _options = new();

    public OrtExperts(WeightFormat format, ExpertsTensors tensors, int threads, IParallelRunner runner)
    {
        (Format, _tensors, _runner) = (format, tensors, runner);
        var s = tensors.Shape;
        var bits = format.Kind == WeightKind.Int4 ? 4 : 8;
        // Its rows alternate: gate 0, up 0, gate 1, ...
        using (var layout = new OrtMatrix(format, s.Experts, 2 * s.Intermediate, s.Hidden, (section, row) => (section / 2 * s.Intermediate + row) * 2 + section % 2))
        {
            _gateUp = GateUp(format, s, 12, runner, layout.Store);
            _graph.Weight("fc1", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, s.Experts, 2L * s.Intermediate, s.Hidden * bits / 8);
            _graph.Weight("fc1.scales", TensorElementKind.Float, layout.Scales.Pointer, layout.Scales.Bytes, s.Experts, 2L * s.Intermediate, s.Hidden / format.Group);
            RotatingBytes = layout.Codes.Bytes + layout.Scales.Bytes;
        }
        using (var layout = new OrtMatrix(format, s.Experts, s.Hidden, s.Intermediate))
        {
            _down = new RandomWeights(format, s.Experts, s.Hidden, s.Intermediate, 13, runner, onRow: layout.Store);
            _graph.Weight("fc2", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, s.Experts, s.Hidden, s.Intermediate * bits / 8);
            _graph.Weight("fc2.scales", TensorElementKind.Float, layout.Scales.Pointer, layout.Scales.Bytes, s.Experts, s.Hidden, s.Intermediate / format.Group);
            RotatingBytes += layout.Codes.Bytes + layout.Scales.Bytes;
        }
        using var router = Transposed(tensors.Router, s.Experts, s.Hidden);
        var x = _graph.Input("x", s.Hidden);
        var logits = _graph.Node("MatMul", "logits", [x, _graph.Weight("router", TensorElementKind.Float, router.Pointer, (nint)s.Experts * s.Hidden * 4, s.Hidden, s.Experts)]);
        var probabilities = _graph.Node("Softmax", "probabilities", [logits], ("axis", -1));
        var scores = _graph.Node("Add", "scores", [probabilities, _graph.Weight("bias", TensorElementKind.Float, tensors.Bias.Pointer, s.Experts * 4, s.Experts)]);
        _graph.Node("QMoE", "y", [x, scores, "fc1", "fc1.scales", "", "fc2", "fc2.scales", "", "", "", "", "", "", "", probabilities],
            ("k", s.PerToken), ("activation_type", "swiglu"), ("swiglu_fusion", 1), ("activation_alpha", 1f), ("activation_beta", 0f), ("normalize_routing_weights", 1), ("expert_weight_bits", bits), ("block_size", format.Group), ("accuracy_level", 4));
        _graph.Output("y", s.Hidden);
        _session = _graph.Session(threads);
    }

    public override string Name => "ORT QMoE";
    public override WeightFormat Format { get; }
    public override long RotatingBytes { get; }

    /// <summary>Gate rows, then up rows of every expert: two sections each.</summary>
    public static RandomWeights GateUp(WeightFormat format, ExpertsShape s, ulong seed, IParallelRunner runner, RandomWeights.RowReader? onRow = null, bool ownCodes = false) =>
        new(format, 2 * s.Experts, s.Intermediate, s.Hidden, seed, runner, ownCodes, onRow);

    public override void Run(int tokens, int turns)
    {
        var hidden = _tensors.Shape.Hidden;
        using var y = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, hidden], (nint)_tensors.Y.Pointer, (long)tokens * hidden * 4);
        for (var turn = 0; turn < turns; turn++)
        {
            using var x = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, hidden], (nint)(_tensors.X.Floats + (nint)ExpertsTensors.First(turn, tokens) * hidden), (long)tokens * hidden * 4);
            _session.Run(_options, ["x"], [x], ["y"], [y]);
        }
    }

    public override LayerTraffic Traffic(int tokens, int turns)
    {
        var distinct = _tensors.DistinctExperts(tokens, turns);
        return new LayerTraffic(distinct * RotatingBytes / _tensors.Shape.Experts + _tensors.RouterBytes, _tensors.Operations(tokens), distinct);
    }

    public override double Check(int tokens)
    {
        Run(tokens, 1);
        return Compare(_tensors.Reference(_gateUp, _down, tokens, _runner), _tensors.LastOutput(tokens), 0.05);
    }

    public override void Dispose()
    {
        _session.Dispose();
        _options.Dispose();
        _graph.Dispose();
        _gateUp.Dispose();
        _down.Dispose();
    }

    private static NativeMemoryBlock Transposed(NativeMemoryBlock matrix, int rows, int columns)
    {
        var result = new NativeMemoryBlock((nint)rows * columns * 4);
        for (var r = 0; r < rows; r++)
        {
            for (var c = 0; c < columns; c++) result.Floats[c * rows + r] = matrix.Floats[(nint)r * columns + c];
        }
        return result;
    }
}
