using System.Numerics.Tensors;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.GpuTests.Speed;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>
/// ONNX Runtime's QMoE behind a router of its own operators. Nodes have a layer's weights in common and inputs of their own, those of <see cref="ExpertsSpeed"/>. The correction bias is zero: its softmax over
/// the chosen ones is then what ERNIE's rule gives.
/// </summary>
internal sealed unsafe class ExpertsPeer : OrtPeer
{
    /// <summary>Each keeps a copy of the weights in the order that its kernels read.</summary>
    private const int MostNodes = 4;
    /// <summary>Calls of no more tokens have inputs for so many runs, so that the chosen experts change.</summary>
    private const int FewTokens = 256, MostTurns = 4;
    /// <summary>Logits of a chosen and a rejected expert that lie closer may be ordered otherwise in float16.</summary>
    private const double ClearChoice = 0.02;
    private const int CheckedTokens = 2;
    private readonly IParallelRunner _runner;
    private readonly ErnieConfig _config;
    private readonly RandomWeights _gateUp, _down;
    private readonly float[] _router;
    private readonly bool _isTiny;

    public ExpertsPeer(PeerPlace place, WeightFormat format, ErnieConfig config, bool isTiny, IParallelRunner runner) : base(place)
    {
        (_config, _isTiny, _runner) = (config, isTiny, runner);
        var (hidden, intermediate, experts) = (config.HiddenSize, config.ExpertIntermediateSize, config.ExpertCount);
        _router = Floats(Halves(ExpertsSpeed.Router(config)));
        // Its rows alternate: gate 0, up 0, gate 1, ...
        using var gateUp = new OrtMatrix(format, experts, 2 * intermediate, hidden, (section, row) => (section / 2 * intermediate + row) * 2 + section % 2);
        using var down = new OrtMatrix(format, experts, hidden, intermediate);
        _gateUp = new RandomWeights(format, 2 * experts, intermediate, hidden, 12, runner, onRow: gateUp.Store);
        _down = new RandomWeights(format, experts, hidden, intermediate, 13, runner, onRow: down.Store);
        try
        {
            var router = Weight("router", Transposed(_router, experts, hidden), hidden, experts);
            string[] weights = [.. Layer("fc1", gateUp, format, experts, 2 * intermediate, hidden), "", .. Layer("fc2", down, format, experts, hidden, intermediate)];
            for (var i = 0; i < Nodes; i++)
            {
                var x = Graph.Input($"x{i}", hidden, TensorElementKind.Float16);
                var logits = Graph.Node("MatMul", $"logits{i}", [x, router]);
                Graph.Node("QMoE", $"y{i}", [x, logits, .. weights], ("k", config.ExpertsPerToken), ("activation_type", "swiglu"), ("swiglu_fusion", 1), ("activation_alpha", 1f), ("activation_beta", 0f),
                    ("normalize_routing_weights", 1), ("expert_weight_bits", 4), ("block_size", format.Group), ("weights_prepacked", 0));
                Graph.Output($"y{i}", hidden, TensorElementKind.Float16);
            }
            Session = place.Session(Graph);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    protected override int Nodes => _isTiny ? 2 : MostNodes;

    public override PeerCall Of(int tokens)
    {
        var turns = _isTiny || tokens > FewTokens ? 1 : MostTurns;
        var values = Halves(ExpertsSpeed.Inputs(_config, tokens * Nodes * turns));
        var (inputs, outputs, bindings) = (new List<PeerTensor>(), new List<PeerTensor>(), new List<OrtIoBinding>());
        for (var i = 0; i < Nodes; i++) outputs.Add(Place.Tensor(tokens, _config.HiddenSize));
        for (var turn = 0; turn < turns; turn++)
        {
            var binding = Session!.CreateIoBinding();
            for (var i = 0; i < Nodes; i++)
            {
                var x = Place.Tensor(tokens, _config.HiddenSize);
                x.Write(values.AsSpan((turn * Nodes + i) * tokens * _config.HiddenSize, tokens * _config.HiddenSize));
                inputs.Add(x);
                binding.BindInput($"x{i}", x.Value);
                binding.BindOutput($"y{i}", outputs[i].Value);
            }
            bindings.Add(binding);
        }
        return new PeerCall(tokens, bindings, inputs, outputs);
    }

    public override void Check(PeerCall call, Findings findings)
    {
        Run(call, 0);
        var (size, compared) = (_config.HiddenSize, 0);
        for (var node = 0; node < Nodes && compared < CheckedTokens; node++)
        {
            var (input, output) = (Floats(call.Inputs[node].Read()), Floats(call.Outputs[node].Read()));
            for (var token = call.Tokens - 1; token >= 0 && compared < CheckedTokens; token--)
            {
                if (!IsClear(input.AsSpan(token * size, size))) continue;
                Compare(Reference(input.AsSpan(token * size, size)), output.AsSpan(token * size, size), $"QMoE, token {token} of {call.Tokens}, input {node}", findings);
                compared++;
            }
        }
        findings.True(compared > 0, "No token's choice of experts is clear enough to compare.");
    }

    public override void Dispose()
    {
        base.Dispose();
        _gateUp.Dispose();
        _down.Dispose();
    }

    private bool IsClear(ReadOnlySpan<float> x)
    {
        var logits = new double[_config.ExpertCount];
        for (var e = 0; e < logits.Length; e++) logits[e] = TensorPrimitives.Dot(x, _router.AsSpan(e * _config.HiddenSize, _config.HiddenSize));
        Array.Sort(logits);
        return logits[^_config.ExpertsPerToken] - logits[^(_config.ExpertsPerToken + 1)] > ClearChoice;
    }

    private float[] Reference(ReadOnlySpan<float> input)
    {
        var (output, bias, selected) = (new float[_config.HiddenSize], new float[_config.ExpertCount], new int[_config.ExpertsPerToken]);
        using var scratch = new ScratchBuffer();
        fixed (float* x = input, y = output, router = _router, b = bias)
        fixed (int* chosen = selected)
        {
            KernelRegistry.Choose("reference").Experts(new ExpertsArguments
            {
                Input = x, TokenCount = 1, HiddenSize = _config.HiddenSize, ExpertCount = _config.ExpertCount, ExpertsPerToken = _config.ExpertsPerToken, IntermediateSize = _config.ExpertIntermediateSize,
                NormMin = ExpertsCase.NormMin, Router = router, CorrectionBias = b, ExpertEnd = _config.ExpertCount, GateUp = _gateUp.All, Down = _down.All, Output = y, Selected = chosen,
            }, new KernelContext(_runner, scratch));
        }
        return output;
    }

    private string[] Layer(string name, OrtMatrix matrix, WeightFormat format, int experts, int rows, int columns)
    {
        var codes = Graph.Weight(name, TensorElementKind.UInt8, matrix.Codes.Pointer, matrix.Codes.Bytes, experts, rows, columns / 2);
        var groups = columns / format.Group;
        // The CUDA provider has them as activations, the CPU's as float.
        var scales = Place.IsGpu
            ? Weight($"{name}.scales", new ReadOnlySpan<float>(matrix.Scales.Floats, experts * rows * groups), experts, rows, groups)
            : Graph.Weight($"{name}.scales", TensorElementKind.Float, matrix.Scales.Pointer, matrix.Scales.Bytes, experts, rows, groups);
        return [codes, scales];
    }

    private static float[] Transposed(float[] matrix, int rows, int columns)
    {
        var result = new float[matrix.Length];
        for (var r = 0; r < rows; r++)
        {
            for (var c = 0; c < columns; c++) result[c * rows + r] = matrix[r * columns + c];
        }
        return result;
    }
}
