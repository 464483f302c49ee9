using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>One initializer of the exported graph: the rows of its source tensors, one after another, in one format.</summary>
/// <param name="Name">Value name: a weight path.</param>
/// <param name="Format">Byte format.</param>
/// <param name="Shape">Its rows, in one or more dimensions, and last its columns.</param>
/// <param name="Sources">Canonical names of the checkpoint tensors whose rows make up this one, in order.</param>
internal sealed record ExportedWeight(string Name, WeightFormat Format, IReadOnlyList<long> Shape, IReadOnlyList<string> Sources)
{
    public long Columns => Shape[^1];
    public long Rows => Shape.Take(Shape.Count - 1).Aggregate(1L, static (product, size) => checked(product * size));
    /// <summary>Rows of a run that begins on a panel of its own in packed formats; 0: all rows are one run. The gate and the up half of a SwiGLU, each matrix of a stack of experts.</summary>
    public long SectionRows { get => field == 0 ? Rows : field; init; }
    public long Bytes => Format.Bytes(Rows / SectionRows, SectionRows, Columns);

    /// <summary>Shape of the initializer: the weight's own, or [panels, bytes of a panel].</summary>
    public IReadOnlyList<long> GraphShape => Format.IsPacked ? [checked(Rows / SectionRows * PanelLayout.PanelCount(SectionRows)), new PanelLayout(Format, Columns).PanelBytes] : Shape;

    public TensorElementKind ElementKind => Format.Kind switch
    {
        WeightKind.Float32 => TensorElementKind.Float,
        WeightKind.BFloat16 => TensorElementKind.BFloat16,
        _ => TensorElementKind.UInt8,
    };
}
