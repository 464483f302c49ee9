using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>One initializer of the exported graph: the rows of its source tensors, one after another, in one format.</summary>
/// <param name="Name">Value name: a weight path.</param>
/// <param name="Format">Byte format.</param>
/// <param name="Shape">Shape in the graph; the last dimension is the number of columns.</param>
/// <param name="Sources">Canonical names of the checkpoint tensors whose rows make up this one, in order.</param>
internal sealed record ExportedWeight(string Name, WeightFormat Format, IReadOnlyList<long> Shape, IReadOnlyList<string> Sources)
{
    public long Columns => Shape[^1];
    public long Rows => Shape.Take(Shape.Count - 1).Aggregate(1L, static (product, size) => checked(product * size));
    public long Bytes => Format.Bytes(1, Rows, Columns);

    public TensorElementKind ElementKind => Format.Kind switch
    {
        WeightKind.Float32 => TensorElementKind.Float,
        WeightKind.BFloat16 => TensorElementKind.BFloat16,
        _ => TensorElementKind.UInt8,
    };
}
