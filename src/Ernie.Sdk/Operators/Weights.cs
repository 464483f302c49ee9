using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Operators;

/// <summary>Turns weight initializers into what kernels read, with their shapes checked against the node.</summary>
internal static unsafe class Weights
{
    /// <summary>A stack of matrices [count, rows, columns] or one [rows, columns], as one matrix with all rows.</summary>
    public static PackedMatrix Matrix(in OrtKernelInfo info, int input, string name, ReadOnlySpan<long> shape)
    {
        var tensor = info.Constant(input, name);
        if (!tensor.Shape.SequenceEqual(shape))
            throw new InvalidDataException($"Node {info.NodeName}: '{name}' has shape [{string.Join(", ", tensor.Shape.ToArray())}], expected [{string.Join(", ", shape.ToArray())}]. Export the checkpoint again.");
        var format = tensor.Kind switch
        {
            TensorElementKind.Float => WeightFormat.Float32,
            TensorElementKind.BFloat16 => WeightFormat.BFloat16,
            _ => throw new InvalidDataException($"Node {info.NodeName}: '{name}' has element type {(int)tensor.Kind}; this version reads float and bfloat16."),
        };
        var columns = shape[^1];
        return new PackedMatrix(format, (byte*)tensor.Data, (nint)(tensor.Count / columns), (nint)columns);
    }

    /// <summary>A float initializer of exactly this many elements.</summary>
    public static float* Floats(in OrtKernelInfo info, int input, string name, long count)
    {
        var tensor = info.Constant(input, name);
        if (tensor.Kind != TensorElementKind.Float || tensor.Count != count)
            throw new InvalidDataException($"Node {info.NodeName}: '{name}' must hold {count} floats. Export the checkpoint again.");
        return (float*)tensor.Data;
    }
}
