using System.Numerics.Tensors;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>Shape of the routed experts of one layer.</summary>
internal sealed record ExpertsShape(int Hidden, int Intermediate, int Experts, int PerToken);

/// <summary>Router, inputs and outputs of one layer of experts, for every contestant. Each has the layer's weights <paramref name="copies"/> times, and successive turns read one copy after another.</summary>
internal sealed unsafe class ExpertsTensors(ExpertsShape shape, int copies, int maxTokens, IParallelRunner runner) : IDisposable
{
    /// <summary>Tokens beyond a call's, so that each turn has others.</summary>
    private const int Spare = 512;
    public ExpertsShape Shape => shape;
    public int Copies => copies;
    public NativeMemoryBlock X { get; } = new NativeMemoryBlock((nint)(maxTokens + Spare) * shape.Hidden * 4).FillFloat(8, 1, runner); // [tokens, hidden]
    public NativeMemoryBlock Y { get; } = new((nint)maxTokens * shape.Hidden * 4); // [tokens, hidden]
    public NativeMemoryBlock Router { get; } = new NativeMemoryBlock((nint)shape.Experts * shape.Hidden * 4).FillFloat(6, 2 / MathF.Sqrt(shape.Hidden), runner); // [experts, hidden]
    public NativeMemoryBlock Bias { get; } = new NativeMemoryBlock(shape.Experts * 4).FillFloat(7, 0.001f, runner); // [experts]
    public NativeMemoryBlock Selected { get; } = new((nint)maxTokens * shape.PerToken * 4); // [tokens, experts per token]

    /// <summary>The first token of a turn.</summary>
    public static int First(int turn, int tokens) => (int)((long)turn * tokens % Spare);

    public ExpertsArguments Arguments(PackedMatrix gateUp, PackedMatrix down, int first, int tokens, float* output) => new()
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
        GateUp = gateUp,
        Down = down,
        Output = output,
        Selected = (int*)Selected.Pointer,
    };

    /// <summary>The last of some tokens of the first turn, by the reference.</summary>
    public float[] Reference(PackedMatrix gateUp, PackedMatrix down, int tokens, IParallelRunner threads)
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
        for (var turn = 0; turn < turns; turn++) kernels.Experts(tensors.Arguments(Copy(gateUp, turn), Copy(down, turn), ExpertsTensors.First(turn, tokens), tokens, tensors.Y.Floats), context);
    });

    public override LayerTraffic Traffic(int tokens, int turns)
    {
        var distinct = tensors.DistinctExperts(tokens, turns);
        return new LayerTraffic(distinct * RotatingBytes / tensors.Copies / tensors.Shape.Experts + tensors.RouterBytes, tensors.Operations(tokens), distinct);
    }

    public override double Check(int tokens)
    {
        Run(tokens, 1);
        return Compare(tensors.Reference(Copy(gateUp, 0), Copy(down, 0), tokens, runner), tensors.LastOutput(tokens), 1e-3);
    }

    private PackedMatrix Copy(RandomWeights weights, int turn) => weights.Part(turn % tensors.Copies, tensors.Copies);

    public override void Dispose()
    {
        gateUp.Dispose();
        down.Dispose();
    }
}

/// <summary>ONNX Runtime's QMoE with 8-bit activations behind a router of its own operators: the same function. One graph computes a round over the copies, each with an input of its own.</summary>
internal sealed unsafe class OrtExperts : Contestant
{
    private readonly ExpertsTensors _tensors;
    private readonly IParallelRunner _runner;
    private readonly RandomWeights _gateUp, _down;
    private readonly OrtGraph _graph = new();
    private readonly InferenceSession _session;
    private readonly RunOptions _options = new();
    private readonly string[] _inputs, _outputs;

    public OrtExperts(WeightFormat format, ExpertsTensors tensors, int threads, IParallelRunner runner)
    {
        (Format, _tensors, _runner) = (format, tensors, runner);
        var s = tensors.Shape;
        var bits = format.Kind == WeightKind.Int4 ? 4 : 8;
        string[] Names(string name) => [.. Enumerable.Range(0, tensors.Copies).Select(copy => $"{name}{copy}")];
        (_inputs, _outputs) = (Names("x"), Names("y"));
        // Its rows alternate: gate 0, up 0, gate 1, ...
        using (var layout = new OrtMatrix(format, s.Experts, 2 * s.Intermediate, s.Hidden, (section, row) => (section / 2 * s.Intermediate + row) * 2 + section % 2))
        {
            _gateUp = GateUp(format, s, 1, 12, runner, layout.Store);
            foreach (var y in _outputs)
            {
                _graph.Weight($"{y}.fc1", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, s.Experts, 2L * s.Intermediate, s.Hidden * bits / 8);
                _graph.Weight($"{y}.fc1.scales", TensorElementKind.Float, layout.Scales.Pointer, layout.Scales.Bytes, s.Experts, 2L * s.Intermediate, s.Hidden / format.Group);
            }
            RotatingBytes = tensors.Copies * (long)(layout.Codes.Bytes + layout.Scales.Bytes);
        }
        using (var layout = new OrtMatrix(format, s.Experts, s.Hidden, s.Intermediate))
        {
            _down = new RandomWeights(format, s.Experts, s.Hidden, s.Intermediate, 13, runner, onRow: layout.Store);
            foreach (var y in _outputs)
            {
                _graph.Weight($"{y}.fc2", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, s.Experts, s.Hidden, s.Intermediate * bits / 8);
                _graph.Weight($"{y}.fc2.scales", TensorElementKind.Float, layout.Scales.Pointer, layout.Scales.Bytes, s.Experts, s.Hidden, s.Intermediate / format.Group);
            }
            RotatingBytes += tensors.Copies * (long)(layout.Codes.Bytes + layout.Scales.Bytes);
        }
        using var transposed = Transposed(tensors.Router, s.Experts, s.Hidden);
        var router = _graph.Weight("router", TensorElementKind.Float, transposed.Pointer, (nint)s.Experts * s.Hidden * 4, s.Hidden, s.Experts);
        var bias = _graph.Weight("bias", TensorElementKind.Float, tensors.Bias.Pointer, s.Experts * 4, s.Experts);
        foreach (var (input, y) in _inputs.Zip(_outputs))
        {
            var x = _graph.Input(input, s.Hidden);
            var logits = _graph.Node("MatMul", $"{y}.logits", [x, router]);
            var probabilities = _graph.Node("Softmax", $"{y}.probabilities", [logits], ("axis", -1));
            var scores = _graph.Node("Add", $"{y}.scores", [probabilities, bias]);
            _graph.Node("QMoE", y, [x, scores, $"{y}.fc1", $"{y}.fc1.scales", "", $"{y}.fc2", $"{y}.fc2.scales", "", "", "", "", "", "", "", probabilities],
                ("k", s.PerToken), ("activation_type", "swiglu"), ("swiglu_fusion", 1), ("activation_alpha", 1f), ("activation_beta", 0f), ("normalize_routing_weights", 1), ("expert_weight_bits", bits), ("block_size", format.Group), ("accuracy_level", 4));
            _graph.Output(y, s.Hidden);
        }
        _session = _graph.Session(threads);
    }

    public override string Name => "ORT QMoE";
    public override WeightFormat Format { get; }
    public override long RotatingBytes { get; }

    /// <summary>Gate rows, then up rows of every expert: two sections each.</summary>
    public static RandomWeights GateUp(WeightFormat format, ExpertsShape s, int copies, ulong seed, IParallelRunner runner, RandomWeights.RowReader? onRow = null, bool ownCodes = false) =>
        new(format, copies * 2 * s.Experts, s.Intermediate, s.Hidden, seed, runner, ownCodes, onRow);

    public override void Run(int tokens, int turns)
    {
        for (var turn = 0; turn < turns; turn += _inputs.Length) Round(tokens, turn, _outputs);
    }

    public override LayerTraffic Traffic(int tokens, int turns)
    {
        var distinct = _tensors.DistinctExperts(tokens, turns);
        return new LayerTraffic(distinct * RotatingBytes / _tensors.Copies / _tensors.Shape.Experts + _tensors.RouterBytes, _tensors.Operations(tokens), distinct);
    }

    public override double Check(int tokens)
    {
        Round(tokens, 0, _outputs[..1]);
        return Compare(_tensors.Reference(_gateUp.All, _down.All, tokens, _runner), _tensors.LastOutput(tokens), 0.05);
    }

    public override void Dispose()
    {
        _session.Dispose();
        _options.Dispose();
        _graph.Dispose();
        _gateUp.Dispose();
        _down.Dispose();
    }

    /// <summary>A turn on each copy. Outputs that are asked for share their memory.</summary>
    private void Round(int tokens, int firstTurn, string[] outputs)
    {
        var hidden = _tensors.Shape.Hidden;
        using var y = Value(_tensors.Y.Floats);
        OrtValue[] inputs = [.. Enumerable.Range(firstTurn, _inputs.Length).Select(turn => Value(_tensors.X.Floats + (nint)ExpertsTensors.First(turn, tokens) * hidden))];
        _session.Run(_options, _inputs, inputs, outputs, [.. outputs.Select(_ => y)]);
        foreach (var input in inputs) input.Dispose();

        OrtValue Value(float* data) => OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, hidden], (nint)data, (long)tokens * hidden * 4);
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
