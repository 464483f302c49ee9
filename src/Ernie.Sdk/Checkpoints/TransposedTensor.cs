namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored [inputs, outputs]: its rows are columns of the stored matrix, which may hold further outputs (fused projections) beside them.</summary>
internal sealed class TransposedTensor : CheckpointTensor
{
    /// <summary>Tile edge: 32 columns of 2 bytes are a cache line, and a tile of floats is 4 KB.</summary>
    private const int Tile = 32;

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
        var tile = stackalloc float[Tile * Tile];
        fixed (float* target = destination)
        {
            for (long r = 0; r < rows; r += Tile)
            {
                var tileRows = (int)Math.Min(Tile, rows - r);
                for (long c = 0; c < Columns; c += Tile)
                {
                    var tileColumns = (int)Math.Min(Tile, Columns - c);
                    for (var k = 0; k < tileColumns; k++)
                    {
                        Widening.Widen(Type, origin + ((c + k) * Stride + r) * size, new Span<float>(tile + k * Tile, tileRows));
                    }
                    TileTranspose.Write(tile, Tile, tileRows, tileColumns, target + r * Columns + c, Columns);
                }
            }
        }
    }
}
