using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// One weight of a checkpoint under its canonical name and orientation: [rows = outputs, columns = inputs], whatever the file does. A vector has one row.
/// </summary>
internal abstract class CheckpointTensor
{
    public required string Name { get; init; }
    /// <summary>File the weight lies in, for messages.</summary>
    public required string File { get; init; }
    public required long Rows { get; init; }
    public required long Columns { get; init; }
    /// <summary>Element type as stored; float32, the type of the decoded values, where the weight is quantised.</summary>
    public required StoredType Type { get; init; }
    public long Count => checked(Rows * Columns);

    /// <summary>
    /// Widens or decodes rows [<paramref name="firstRow"/>, +n) into <paramref name="destination"/>, which holds n × <see cref="Columns"/> values. Thread-safe.
    /// Values are passed on as they are: <see cref="ContainsNonFinite"/> tells whether NaN or infinity is among them.
    /// </summary>
    public abstract void Read(long firstRow, Span<float> destination);

    /// <summary>Packed format whose integers and scales the file holds, or null: then there are values only.</summary>
    public virtual WeightFormat? StoredFormat => null;

    /// <summary>Whether <see cref="ReadPanels"/> gives this packed format.</summary>
    public virtual bool Holds(WeightFormat format) => StoredFormat == format;

    /// <summary>Puts rows into panels with the integers and scales that the file holds. Thread-safe.</summary>
    /// <param name="layout">Of a format that <see cref="Holds"/> affirms.</param>
    /// <param name="firstRow">First row of this weight.</param>
    /// <param name="rows">Rows to put.</param>
    /// <param name="at">Row of the panels, counted from the first one, that it becomes.</param>
    /// <param name="panels">Panels of which the rows before <paramref name="at"/> have been written, and the rest has not.</param>
    public virtual void ReadPanels(in PanelLayout layout, long firstRow, int rows, int at, Span<byte> panels) => throw new InvalidOperationException($"{Name} is not stored as {layout.Format}.");

    /// <summary>Whether NaN or an infinity is among <paramref name="values"/>.</summary>
    public static bool ContainsNonFinite(ReadOnlySpan<float> values)
    {
        const uint exponent = 0x7F800000;
        ref var bits = ref Unsafe.As<float, uint>(ref MemoryMarshal.GetReference(values));
        var i = 0;
        if (Vector512.IsHardwareAccelerated || Vector256.IsHardwareAccelerated)
        {
            var mask = Vector512.Create(exponent);
            for (; i <= values.Length - Vector512<uint>.Count; i += Vector512<uint>.Count)
            {
                if (Vector512.EqualsAny(Vector512.LoadUnsafe(ref bits, (nuint)i) & mask, mask)) return true;
            }
        }
        for (; i < values.Length; i++)
        {
            if (!float.IsFinite(values[i])) return true;
        }
        return false;
    }

    /// <summary>Number of rows that fill <paramref name="destination"/>.</summary>
    private protected long CheckRange(long firstRow, Span<float> destination)
    {
        var rows = destination.Length / Columns;
        if (rows * Columns != destination.Length) throw new ArgumentException($"{Name}: {destination.Length} values are no whole number of rows of {Columns}.", nameof(destination));
        ArgumentOutOfRangeException.ThrowIfNegative(firstRow);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstRow, Rows - rows);
        return rows;
    }
}
