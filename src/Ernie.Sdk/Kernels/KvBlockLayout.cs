namespace Ernie.Sdk.Kernels;

/// <summary>
/// Addressing inside one block of the KV cache: 128 token positions of one layer. No other code computes an offset.
/// </summary>
/// <remarks>
/// A block is, in order,
/// <code>
/// keys       [kvHeads, 8 tiles, headDim, 16 positions]   element type   a tile is transposed: one load holds one channel of 16 positions
/// values     [kvHeads, 128 positions, headDim]           element type
/// summaries  [kvHeads, headDim]                          float          reserved for the block summaries of sparse attention
/// </code>
/// padded to a multiple of 4096 bytes, so that the pages of a freed block can be given back. Offsets are <c>nint</c>.
/// </remarks>
internal sealed class KvBlockLayout
{
    /// <summary>Positions in a block: the PLAS block (<c>plas_block_size</c>).</summary>
    public const int BlockSize = 128;
    /// <summary>Positions in a key tile.</summary>
    public const int TileSize = 16;
    private const int PageBytes = 4096;

    public KvBlockLayout(KvElementType elementType, int kvHeadCount, int headDim)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(kvHeadCount);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(headDim);
        ElementType = elementType;
        KvHeadCount = kvHeadCount;
        HeadDim = headDim;
        ElementBytes = elementType == KvElementType.Float32 ? 4 : 2;
        HeadBytes = (nint)BlockSize * headDim * ElementBytes;
        SummaryOffset = checked(2 * kvHeadCount * HeadBytes);
        var bytes = checked(SummaryOffset + (nint)kvHeadCount * headDim * sizeof(float));
        BlockBytes = checked((bytes + PageBytes - 1) / PageBytes * PageBytes);
    }

    public KvElementType ElementType { get; }
    public int KvHeadCount { get; }
    public int HeadDim { get; }
    public int ElementBytes { get; }
    /// <summary>Bytes of one block of one layer.</summary>
    public nint BlockBytes { get; }
    /// <summary>Bytes of the keys (or the values) of one KV head in a block.</summary>
    private nint HeadBytes { get; }
    private nint SummaryOffset { get; }

    /// <summary>Tile [headDim, 16] of keys of positions 16·tile .. 16·tile+15.</summary>
    public nint KeyTile(int kvHead, int tile) => kvHead * HeadBytes + (nint)tile * TileSize * HeadDim * ElementBytes;

    /// <summary>Key channel <paramref name="channel"/> of one position; the next channel is <see cref="KeyChannelStride"/> bytes on.</summary>
    public nint Key(int kvHead, int position, int channel) =>
        KeyTile(kvHead, position / TileSize) + ((nint)channel * TileSize + position % TileSize) * ElementBytes;

    public nint KeyChannelStride => TileSize * ElementBytes;

    /// <summary>Value row [headDim] of one position; the next position's row follows at once.</summary>
    public nint Value(int kvHead, int position) => (KvHeadCount + kvHead) * HeadBytes + (nint)position * HeadDim * ElementBytes;

    /// <summary>Summary row [headDim], float.</summary>
    public nint Summary(int kvHead) => SummaryOffset + (nint)kvHead * HeadDim * sizeof(float);
}
