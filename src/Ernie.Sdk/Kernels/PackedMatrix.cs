using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

/// <summary>
/// A weight matrix [rows = outputs, columns = inputs] in place: <see cref="Data"/> points into ONNX Runtime's mapping of the weight file and lives as long as the session.
/// </summary>
/// <remarks>
/// Packed formats lie in panels of 16 rows. A run of <see cref="SectionRows"/> rows begins on a panel: all rows of a plain matrix, the gate and the up half of a SwiGLU,
/// each matrix of a stack of experts.
/// </remarks>
internal readonly unsafe struct PackedMatrix
{
    public PackedMatrix(WeightFormat format, byte* data, nint rows, nint columns) : this(format, data, rows, columns, rows) { }

    public PackedMatrix(WeightFormat format, byte* data, nint rows, nint columns, nint sectionRows)
    {
        Format = format;
        Data = data;
        Rows = rows;
        Columns = columns;
        SectionRows = sectionRows;
        if (format.IsPacked) Layout = new PanelLayout(format, columns);
        else RowBytes = (nint)format.RowBytes(columns);
    }

    public WeightFormat Format { get; }
    public byte* Data { get; }
    /// <summary>All rows, padding left out.</summary>
    public nint Rows { get; }
    public nint Columns { get; }
    public nint SectionRows { get; }
    /// <summary>Bytes of a row of a row-major format.</summary>
    public nint RowBytes { get; }
    /// <summary>Addressing in a packed format.</summary>
    public PanelLayout Layout { get; }

    /// <summary>A row of a row-major format.</summary>
    public byte* Row(nint row) => Data + row * RowBytes;

    /// <summary>The panel that holds a row of a packed format, at <c>(row % SectionRows) % 16</c>.</summary>
    public byte* Panel(nint row) => Data + (row / SectionRows * (nint)PanelLayout.PanelCount(SectionRows) + row % SectionRows / PanelLayout.Rows) * (nint)Layout.PanelBytes;

    /// <summary>Rows [first, first + count), which in packed formats are whole sections.</summary>
    public PackedMatrix Slice(nint first, nint count) => new(Format, Format.IsPacked ? Panel(first) : Row(first), count, Columns, Format.IsPacked ? SectionRows : count);
}
