using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class LinearOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.Linear.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.Linear.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.Linear.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    private sealed unsafe class Kernel : CustomKernel
    {
        private readonly OperatorEnvironment _environment;
        private readonly PackedMatrix _weight;
        private readonly bool _swiGlu;

        public Kernel(OperatorEnvironment environment, OrtKernelInfo info)
        {
            _environment = environment;
            _swiGlu = info.Int(OperatorSchema.Linear.SwiGlu) != 0;
            // The rows of panels are padded: their number stands in the attributes.
            var weight = info.Constant(1, "weight");
            var shape = weight.Kind == TensorElementKind.UInt8 ? [info.Int(OperatorSchema.Packed.Rows), info.Int(OperatorSchema.Packed.Columns)] : weight.Shape;
            if (shape.Length != 2 || (_swiGlu && shape[0] % 2 != 0))
                throw new InvalidDataException($"Node {info.NodeName}: the weight must be a matrix{(_swiGlu ? " with an even number of rows" : "")}, it has shape [{string.Join(", ", shape.ToArray())}].");
            _weight = Weights.Matrix(info, 1, "weight", shape, _swiGlu ? shape[0] / 2 : shape[0], OperatorSchema.Packed.Bits, OperatorSchema.Packed.BlockSize);
        }

        public override void Compute(OrtComputeContext context)
        {
            var x = context.Input(0); // [tokens, columns]
            if (x.Rank != 2 || x[1] != _weight.Columns) throw new ArgumentException($"x must be [tokens, {_weight.Columns}].");
            var arguments = new LinearArguments { Input = (float*)x.Data, TokenCount = checked((int)x[0]), Weight = _weight, SwiGlu = _swiGlu };
            arguments.Output = (float*)context.Output(0, x[0], arguments.OutputSize);
            if (arguments.TokenCount > 0) _environment.Kernels.Linear(arguments, _environment.Enter(context));
        }
    }
}
