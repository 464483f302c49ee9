using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored [inputs, outputs]: its rows are columns of the stored matrix, which may hold further outputs (fused projections) beside them.</summary>
internal sealed class TransposedTensor : CheckpointTensor
{
    /// <summary>Stored rows in a tile: two cache lines of a row of floats.</summary>
    private const int TileDepth = 32;
    /// <summary>
    /// Stored columns in a tile. Each stored row lies on another page, so all that is wanted of it is taken at one visit; the tile of floats (16 KB) stays in the first-level cache.
    /// </summary>
    private const int TileWidth = 128;

    public required SafetensorsFile Source { get; init; }
    public required SafetensorsEntry Entry { get; init; }
    /// <summary>First element of the stored matrix inside the stored tensor.</summary>
    public required long Offset { get; init; }
    /// <summary>Columns of the stored matrix.</summary>
    public required long Stride { get; init; }
    /// <summary>Stored column that is this weight's row 0.</summary>
    public required long FirstColumn { get; init; }

    public override unsafe void Read(long firstRow, Span<float> destination)
    {
        var rows = CheckRange(firstRow, destination);
        if (rows == 0) return;
        using var mapped = Source.Map(Entry);
        var size = Type.Bytes();
        var last = checked((Offset + (Columns - 1) * Stride + FirstColumn + firstRow + rows) * size);
        if (last > mapped.Length) throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        var origin = mapped.Pointer + (Offset + FirstColumn + firstRow) * size;
        var tile = stackalloc float[TileDepth * TileWidth];
        fixed (float* target = destination)
        {
            for (long r = 0; r < rows; r += TileWidth)
            {
                var tileRows = (int)Math.Min(TileWidth, rows - r);
                for (long c = 0; c < Columns; c += TileDepth)
                {
                    var tileColumns = (int)Math.Min(TileDepth, Columns - c);
                    if (Sse.IsSupported) Prefetch(origin + ((c + TileDepth) * Stride + r) * size, Math.Min(TileDepth, Columns - c - TileDepth), Stride * size, tileRows * size);
                    for (var k = 0; k < tileColumns; k++)
                    {
                        Widening.Widen(Type, origin + ((c + k) * Stride + r) * size, new Span<float>(tile + k * TileWidth, tileRows));
                    }
                    TileTranspose.Write(tile, TileWidth, tileRows, tileColumns, target + r * Columns + c, Columns);
                }
            }
        }
    }

    // No stored row predicts the next for the hardware, each being on another page: waiting for them one by one costs most of the time otherwise.
    private static unsafe void Prefetch(byte* row, long rows, long stride, int bytes)
    {
        for (long k = 0; k < rows; k++, row += stride)
        {
            for (var b = 0; b < bytes; b += 64) Sse.Prefetch0(row + b);
        }
    }
}
