using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class MoeExpertsOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.MoeExperts.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.MoeExperts.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.MoeExperts.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    private sealed unsafe class Kernel : CustomKernel
    {
        private readonly OperatorEnvironment _environment;
        private readonly ExpertsArguments _template;
        private readonly int _index;

        public Kernel(OperatorEnvironment environment, OrtKernelInfo info)
        {
            _environment = environment;
            var hidden = info.Constant(1, "router").Shape[^1];
            var template = new ExpertsArguments
            {
                HiddenSize = checked((int)hidden),
                ExpertCount = info.Int(OperatorSchema.MoeExperts.ExpertCount),
                ExpertsPerToken = info.Int(OperatorSchema.MoeExperts.ExpertsPerToken),
                IntermediateSize = info.Int(OperatorSchema.MoeExperts.IntermediateSize),
                NormMin = info.Float(OperatorSchema.MoeExperts.NormMin),
                ExpertBegin = info.Int(OperatorSchema.MoeExperts.ExpertBegin),
                ExpertEnd = info.Int(OperatorSchema.MoeExperts.ExpertEnd),
            };
            if (template.ExpertsPerToken < 1 || template.ExpertsPerToken > template.ExpertCount)
                throw new InvalidDataException($"Node {info.NodeName}: {template.ExpertsPerToken} of {template.ExpertCount} experts per token.");
            if (template.ExpertBegin < 0 || template.ExpertEnd > template.ExpertCount || template.ExpertBegin >= template.ExpertEnd)
                throw new InvalidDataException($"Node {info.NodeName}: the expert range [{template.ExpertBegin}, {template.ExpertEnd}) is not inside 0..{template.ExpertCount}.");
            long here = template.ExpertEnd - template.ExpertBegin;
            template.Router = Weights.Floats(info, 1, "router", template.ExpertCount * hidden);
            template.CorrectionBias = Weights.Floats(info, 2, "correction_bias", template.ExpertCount);
            template.GateUp = Weights.Matrix(info, 3, "gate_up", [here, 2L * template.IntermediateSize, hidden], template.IntermediateSize, OperatorSchema.Packed.GateUpBits, OperatorSchema.Packed.GateUpBlockSize);
            template.Down = Weights.Matrix(info, 4, "down", [here, hidden, template.IntermediateSize], hidden, OperatorSchema.Packed.DownBits, OperatorSchema.Packed.DownBlockSize);
            _template = template;
            _index = IndexOf(environment.Load, info.NodeName, template);
            environment.Prefetch?.Register(_index, template);
        }

        public override void Compute(OrtComputeContext context)
        {
            var x = context.Input(0); // [tokens, hidden]
            if (x.Rank != 2 || x[1] != _template.HiddenSize) throw new ArgumentException($"x must be [tokens, {_template.HiddenSize}].");
            var arguments = _template;
            arguments.Input = (float*)x.Data;
            arguments.TokenCount = checked((int)x[0]);
            arguments.Output = (float*)context.Output(0, x[0], x[1]);
            arguments.Selected = (int*)context.Output(1, x[0], arguments.ExpertsPerToken);
            arguments.Weights = (float*)context.Output(2, x[0], arguments.ExpertsPerToken);
            if (arguments.TokenCount == 0) return;
            var choices = checked(arguments.TokenCount * arguments.ExpertsPerToken);
            if (arguments.Selected == null) arguments.Selected = _environment.Choices(choices);
            var kernelContext = _environment.Enter(context);
            _environment.Prefetch?.Begin(_index, arguments.Input, arguments.TokenCount, _environment.Kernels, kernelContext);
            _environment.Kernels.Experts(arguments, kernelContext);
            _environment.Load.Layers[_index].Add(new ReadOnlySpan<int>(arguments.Selected, choices), arguments.TokenCount);
        }

        /// <summary>The place of a node among the model's mixture-of-experts layers: ONNX Runtime creates kernels in an order of its own, but the graph names nodes by layer.</summary>
        private static int IndexOf(ExpertLoad load, string node, in ExpertsArguments template)
        {
            var index = load.IndexOf(node);
            if (index < 0 || load.ExpertCount != template.ExpertCount || load.ExpertsPerToken != template.ExpertsPerToken)
                throw new InvalidDataException($"Node {node} with {template.ExpertsPerToken} of {template.ExpertCount} experts is no mixture of experts of the model that the manifest describes. Export the checkpoint again.");
            return index;
        }
    }
}
