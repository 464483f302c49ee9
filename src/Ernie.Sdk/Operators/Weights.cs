using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Operators;

/// <summary>Turns weight initializers into what kernels read, with their shapes checked against the node.</summary>
internal static unsafe class Weights
{
    /// <summary>A stack of matrices [count, rows, columns] or one [rows, columns], as one matrix with all rows.</summary>
    /// <param name="info">The node.</param>
    /// <param name="input">Number of the input.</param>
    /// <param name="name">Its name, for messages.</param>
    /// <param name="shape">Expected shape.</param>
    /// <param name="sectionRows">Rows of a run that begins on a panel.</param>
    /// <param name="bits">Name of the attribute with the bits of a packed weight.</param>
    /// <param name="blockSize">Name of the attribute with its group size.</param>
    public static PackedMatrix Matrix(in OrtKernelInfo info, int input, string name, ReadOnlySpan<long> shape, long sectionRows, string bits, string blockSize)
    {
        var tensor = info.Constant(input, name);
        var columns = shape[^1];
        var rows = 1L;
        foreach (var size in shape[..^1]) rows = checked(rows * size);
        if (rows < 1 || columns < 1 || sectionRows < 1 || rows % sectionRows != 0) throw new InvalidDataException($"Node {info.NodeName}: '{name}' cannot have {rows} rows of {columns} columns.");
        var format = tensor.Kind switch
        {
            TensorElementKind.Float => WeightFormat.Float32,
            TensorElementKind.BFloat16 => WeightFormat.BFloat16,
            TensorElementKind.UInt8 => PackedFormat(info, name, columns, info.Int(bits), info.Int(blockSize)),
            _ => throw new InvalidDataException($"Node {info.NodeName}: '{name}' has element type {(int)tensor.Kind}; this version reads float, bfloat16 and uint8."),
        };
        var expected = format.IsPacked ? [checked(rows / sectionRows * PanelLayout.PanelCount(sectionRows)), new PanelLayout(format, columns).PanelBytes] : shape.ToArray();
        if (!tensor.Shape.SequenceEqual(expected))
            throw new InvalidDataException($"Node {info.NodeName}: '{name}' has shape [{string.Join(", ", tensor.Shape.ToArray())}], expected [{string.Join(", ", expected)}]. Export the checkpoint again.");
        return new PackedMatrix(format, (byte*)tensor.Data, (nint)rows, (nint)columns, (nint)sectionRows);
    }

    private static WeightFormat PackedFormat(in OrtKernelInfo info, string name, long columns, int bits, int blockSize)
    {
        if (OperatorSchema.Packed.FormatOf(bits, blockSize) is not { } format || (format.Kind == WeightKind.Int2 && columns % Wint2.InputsPerScaleByte != 0))
            throw new InvalidDataException($"Node {info.NodeName}: '{name}' with {columns} columns cannot have {bits} bits and blocks of {blockSize}. Export the checkpoint again.");
        return format;
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
