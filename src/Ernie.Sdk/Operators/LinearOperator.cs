using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class LinearOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.Linear.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.Linear.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.Linear.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    /// <summary>What a node says of itself: the weight, in the CPU's memory, and what is done with it.</summary>
    public static unsafe LinearArguments Read(OrtKernelInfo info)
    {
        var swiGlu = info.Int(OperatorSchema.Linear.SwiGlu) != 0;
        // The rows of panels are padded: their number stands in the attributes.
        var weight = info.Constant(1, "weight");
        var shape = weight.Kind == TensorElementKind.UInt8 ? [info.Int(OperatorSchema.Packed.Rows), info.Int(OperatorSchema.Packed.Columns)] : weight.Shape;
        if (shape.Length != 2 || (swiGlu && shape[0] % 2 != 0))
            throw new InvalidDataException($"Node {info.NodeName}: the weight must be a matrix{(swiGlu ? " with an even number of rows" : "")}, it has shape [{string.Join(", ", shape.ToArray())}].");
        return new LinearArguments { Weight = Weights.Matrix(info, 1, "weight", shape, swiGlu ? shape[0] / 2 : shape[0], OperatorSchema.Packed.Bits, OperatorSchema.Packed.BlockSize), SwiGlu = swiGlu };
    }

    /// <summary>Adds what one call has: tokens, input and output, on the provider's device.</summary>
    public static unsafe LinearArguments Bind(in LinearArguments node, OrtComputeContext context)
    {
        var x = context.Input(0); // [tokens, columns]
        if (x.Rank != 2 || x[1] != node.Weight.Columns) throw new ArgumentException($"x must be [tokens, {node.Weight.Columns}].");
        var arguments = node;
        arguments.Input = (float*)x.Data;
        arguments.TokenCount = checked((int)x[0]);
        arguments.Output = (float*)context.Output(0, x[0], arguments.OutputSize);
        return arguments;
    }

    private sealed class Kernel(OperatorEnvironment environment, OrtKernelInfo info) : CustomKernel
    {
        private readonly LinearArguments _node = Read(info);

        public override void Compute(OrtComputeContext context)
        {
            var arguments = Bind(_node, context);
            if (arguments.TokenCount > 0) environment.Kernels.Linear(arguments, environment.Enter(context));
        }
    }
}
