using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

/// <summary>
/// A weight matrix [rows = outputs, columns = inputs] in place: <see cref="Data"/> points into ONNX Runtime's mapping of the weight file and lives as long as the session.
/// </summary>
internal readonly unsafe struct PackedMatrix(WeightFormat format, byte* data, nint rows, nint columns)
{
    public WeightFormat Format { get; } = format;
    public byte* Data { get; } = data;
    public nint Rows { get; } = rows;
    public nint Columns { get; } = columns;
    public nint RowBytes { get; } = (nint)format.RowBytes(columns);

    public byte* Row(nint row) => Data + row * RowBytes;

    /// <summary>Rows [first, first + count), for one expert of a stack.</summary>
    public PackedMatrix Slice(nint first, nint count) => new(Format, Row(first), count, Columns);
}
