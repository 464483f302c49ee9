using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class MoeExpertsOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.MoeExperts.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.MoeExperts.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.MoeExperts.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    /// <summary>What a node says of itself: sizes, router and weights, in the CPU's memory.</summary>
    public static unsafe ExpertsArguments Read(OrtKernelInfo info)
    {
        var hidden = info.Constant(1, "router").Shape[^1];
        var node = new ExpertsArguments
        {
            HiddenSize = checked((int)hidden),
            ExpertCount = info.Int(OperatorSchema.MoeExperts.ExpertCount),
            ExpertsPerToken = info.Int(OperatorSchema.MoeExperts.ExpertsPerToken),
            IntermediateSize = info.Int(OperatorSchema.MoeExperts.IntermediateSize),
            NormMin = info.Float(OperatorSchema.MoeExperts.NormMin),
            ExpertBegin = info.Int(OperatorSchema.MoeExperts.ExpertBegin),
            ExpertEnd = info.Int(OperatorSchema.MoeExperts.ExpertEnd),
        };
        if (node.ExpertsPerToken < 1 || node.ExpertsPerToken > node.ExpertCount)
            throw new InvalidDataException($"Node {info.NodeName}: {node.ExpertsPerToken} of {node.ExpertCount} experts per token.");
        if (node.ExpertBegin < 0 || node.ExpertEnd > node.ExpertCount || node.ExpertBegin >= node.ExpertEnd)
            throw new InvalidDataException($"Node {info.NodeName}: the expert range [{node.ExpertBegin}, {node.ExpertEnd}) is not inside 0..{node.ExpertCount}.");
        long here = node.ExpertEnd - node.ExpertBegin;
        node.Router = Weights.Floats(info, 1, "router", node.ExpertCount * hidden);
        node.CorrectionBias = Weights.Floats(info, 2, "correction_bias", node.ExpertCount);
        node.GateUp = Weights.Matrix(info, 3, "gate_up", [here, 2L * node.IntermediateSize, hidden], node.IntermediateSize, OperatorSchema.Packed.GateUpBits, OperatorSchema.Packed.GateUpBlockSize);
        node.Down = Weights.Matrix(info, 4, "down", [here, hidden, node.IntermediateSize], hidden, OperatorSchema.Packed.DownBits, OperatorSchema.Packed.DownBlockSize);
        return node;
    }

    /// <summary>Adds what one call has: tokens, input and outputs, on the provider's device.</summary>
    public static unsafe ExpertsArguments Bind(in ExpertsArguments node, OrtComputeContext context)
    {
        var x = context.Input(0); // [tokens, hidden]
        if (x.Rank != 2 || x[1] != node.HiddenSize) throw new ArgumentException($"x must be [tokens, {node.HiddenSize}].");
        var arguments = node;
        arguments.Input = (float*)x.Data;
        arguments.TokenCount = checked((int)x[0]);
        arguments.Output = (float*)context.Output(0, x[0], x[1]);
        arguments.Selected = (int*)context.Output(1, x[0], arguments.ExpertsPerToken);
        arguments.Weights = (float*)context.Output(2, x[0], arguments.ExpertsPerToken);
        return arguments;
    }

    /// <summary>The place of a node among the model's mixture-of-experts layers: ONNX Runtime creates kernels in an order of its own, but the graph names nodes by layer.</summary>
    public static int IndexOf(ExpertLoad load, string node, in ExpertsArguments arguments)
    {
        var index = load.IndexOf(node);
        if (index < 0 || load.ExpertCount != arguments.ExpertCount || load.ExpertsPerToken != arguments.ExpertsPerToken)
            throw new InvalidDataException($"Node {node} with {arguments.ExpertsPerToken} of {arguments.ExpertCount} experts is no mixture of experts of the model that the manifest describes. Export the checkpoint again.");
        return index;
    }

    private sealed unsafe class Kernel : CustomKernel
    {
        private readonly OperatorEnvironment _environment;
        private readonly ExpertsArguments _node;
        private readonly int _index;

        public Kernel(OperatorEnvironment environment, OrtKernelInfo info)
        {
            _environment = environment;
            _node = Read(info);
            _index = IndexOf(environment.Load, info.NodeName, _node);
            environment.Prefetch?.Register(_index, _node);
        }

        public override void Compute(OrtComputeContext context)
        {
            var arguments = Bind(_node, context);
            if (arguments.TokenCount == 0) return;
            var choices = checked(arguments.TokenCount * arguments.ExpertsPerToken);
            if (arguments.Selected == null) arguments.Selected = _environment.Choices(choices);
            var kernelContext = _environment.Enter(context);
            _environment.Prefetch?.Begin(_index, arguments.Input, arguments.TokenCount, _environment.Kernels, kernelContext);
            _environment.Kernels.Experts(arguments, kernelContext);
            _environment.Load.Layers[_index].Add(new ReadOnlySpan<int>(arguments.Selected, choices), arguments.TokenCount);
        }
    }
}
