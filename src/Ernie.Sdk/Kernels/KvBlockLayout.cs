namespace Ernie.Sdk.Kernels;

/// <summary>
/// Addressing inside one block of the KV cache: 128 token positions of one layer. No other code computes an offset.
/// </summary>
/// <remarks>
/// A block is, in order,
/// <code>
/// keys          [kvHeads, 8 tiles, headDim, 16 positions]   element type   a tile is transposed: one load holds one channel of 16 positions
/// values        [kvHeads, 128 positions, headDim]           element type
/// key scales    [kvHeads, 128 positions]                    float          int8 only
/// value scales  [kvHeads, 128 positions]                    float          int8 only
/// key sums      [kvHeads, headDim]                          float          sum of the block's cached keys; sparse attention divides by their number
/// gated sums    [kvHeads, headDim]                          float          the same under the learned gate, where a model has one
/// </code>
/// padded to a multiple of 4096 bytes, so that the pages of a freed block can be given back. Offsets are <c>nint</c>.
/// The sums depend on nothing but the cached keys: every step computes those of the blocks it appends to from all their positions, so a step that ended early can run again.
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
        ElementBytes = elementType switch { KvElementType.Float32 => 4, KvElementType.BFloat16 => 2, _ => 1 };
        HeadBytes = (nint)BlockSize * headDim * ElementBytes;
        ScaleOffset = checked(2 * kvHeadCount * HeadBytes);
        SumOffset = checked(ScaleOffset + (HasScales ? 2 * (nint)kvHeadCount * BlockSize * sizeof(float) : 0));
        var bytes = checked(SumOffset + 2 * (nint)kvHeadCount * headDim * sizeof(float));
        BlockBytes = checked((bytes + PageBytes - 1) / PageBytes * PageBytes);
    }

    public KvElementType ElementType { get; }
    public int KvHeadCount { get; }
    public int HeadDim { get; }
    public int ElementBytes { get; }
    /// <summary>Whether keys and values are integers that a scale for each position turns into numbers.</summary>
    public bool HasScales => ElementType == KvElementType.Int8;
    /// <summary>Bytes of one block of one layer.</summary>
    public nint BlockBytes { get; }
    /// <summary>Bytes of the keys and values of one KV head in a block, scales included: what attention reads of it.</summary>
    public nint ReadBytes => 2 * (HeadBytes + (HasScales ? BlockSize * sizeof(float) : 0));
    /// <summary>Bytes of the keys (or the values) of one KV head in a block.</summary>
    private nint HeadBytes { get; }
    private nint ScaleOffset { get; }
    private nint SumOffset { get; }

    /// <summary>Tile [headDim, 16] of keys of positions 16·tile .. 16·tile+15.</summary>
    public nint KeyTile(int kvHead, int tile) => kvHead * HeadBytes + (nint)tile * TileSize * HeadDim * ElementBytes;

    /// <summary>Key channel <paramref name="channel"/> of one position; the next channel is <see cref="KeyChannelStride"/> bytes on.</summary>
    public nint Key(int kvHead, int position, int channel) =>
        KeyTile(kvHead, position / TileSize) + ((nint)channel * TileSize + position % TileSize) * ElementBytes;

    public nint KeyChannelStride => TileSize * ElementBytes;

    /// <summary>Value row [headDim] of one position; the next position's row follows at once.</summary>
    public nint Value(int kvHead, int position) => (KvHeadCount + kvHead) * HeadBytes + (nint)position * HeadDim * ElementBytes;

    /// <summary>Scale of a position's key, float; those of all 128 positions follow one another. With <see cref="HasScales"/> only.</summary>
    public nint KeyScale(int kvHead, int position) => ScaleOffset + ((nint)kvHead * BlockSize + position) * sizeof(float);

    /// <summary>Scale of a position's value, likewise.</summary>
    public nint ValueScale(int kvHead, int position) => KeyScale(KvHeadCount + kvHead, position);

    /// <summary>Sum of the keys [headDim], float.</summary>
    public nint KeySum(int kvHead) => SumOffset + (nint)kvHead * HeadDim * sizeof(float);

    /// <summary>Sum of the keys, each channel of each position times its gate [headDim], float.</summary>
    public nint GatedSum(int kvHead) => KeySum(KvHeadCount + kvHead);
}
