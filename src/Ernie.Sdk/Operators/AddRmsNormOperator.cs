using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class AddRmsNormOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.AddRmsNorm.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.AddRmsNorm.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.AddRmsNorm.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    /// <summary>What a node says of itself: weight and epsilon, in the CPU's memory.</summary>
    public static unsafe AddRmsNormArguments Read(OrtKernelInfo info)
    {
        var columns = info.Constant(1, "weight").Shape[^1];
        return new AddRmsNormArguments { Columns = checked((int)columns), Weight = Weights.Floats(info, 1, "weight", columns), Epsilon = info.Float(OperatorSchema.AddRmsNorm.Epsilon) };
    }

    /// <summary>Adds what one call has: tokens, inputs and outputs, on the provider's device.</summary>
    public static unsafe AddRmsNormArguments Bind(in AddRmsNormArguments node, OrtComputeContext context)
    {
        var x = context.Input(0); // [tokens, columns]
        if (x.Rank != 2 || x[1] != node.Columns) throw new ArgumentException($"x must be [tokens, {node.Columns}].");
        var arguments = node;
        arguments.Input = (float*)x.Data;
        arguments.TokenCount = checked((int)x[0]);
        arguments.First = Added(2, "a");
        arguments.Second = Added(3, "b");
        arguments.Output = (float*)context.Output(0, x[0], x[1]);
        arguments.Sum = (float*)context.Output(1, x[0], x[1]);
        return arguments;

        float* Added(int index, string name)
        {
            var input = context.Input(index);
            if (input.Data == null) return null;
            if (input.Rank != 2 || input[0] != x[0] || input[1] != x[1]) throw new ArgumentException($"{name} must have the shape of x, [{x[0]}, {x[1]}].");
            return (float*)input.Data;
        }
    }

    private sealed class Kernel(OperatorEnvironment environment, OrtKernelInfo info) : CustomKernel
    {
        private readonly AddRmsNormArguments _node = Read(info);

        public override void Compute(OrtComputeContext context)
        {
            var arguments = Bind(_node, context);
            if (arguments.TokenCount > 0) environment.Kernels.AddRmsNorm(arguments, environment.Enter(context));
        }
    }
}
