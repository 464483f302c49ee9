namespace Ernie.Sdk.Kernels;

/// <summary>
/// The work items of one attention call, in scratch memory. With few tiles (decode of few sequences) each split of the cache is an item and leaves a partial result;
/// with many (prefill) a tile runs through its splits itself. Both add in the same order, so the choice changes no bit.
/// </summary>
internal readonly unsafe struct AttentionPlan
{
    /// <summary>Positions of a split: eight blocks. Part of the order of additions: another value gives other bits.</summary>
    public const int SplitSize = 8 * KvBlockLayout.BlockSize;
    /// <summary>Queries of a tile at most, unless one token's group has more. They live on the stack: 64 KB at a head dimension of 128.</summary>
    private const int MaxQueries = 32;

    public AttentionPlan(in AttentionArguments a, in KernelContext context, int lanes)
    {
        Group = a.HeadCount / a.KvHeadCount;
        Stride = (a.HeadDim + lanes - 1) / lanes * lanes;
        var queries = Math.Max(1, MaxQueries * 128 / Math.Max(128, a.HeadDim));
        var tokens = Math.Max(1, queries / Group);
        // Tiles of whole fours share loads between four queries without a rest.
        TileTokens = tokens >= 4 ? tokens & ~3 : tokens;

        int tiles = 0, splits = 0;
        for (var s = 0; s < a.SequenceCount; s++) Add(a, s, null, ref tiles, ref splits);
        SplitsAreItems = splits > tiles && tiles < 4 * context.Parallel.ThreadCount;
        TileCount = tiles;
        PartialCount = SplitsAreItems ? splits : 0;
        PartialSize = (nint)TileTokens * Group * (Stride + 2);

        nint tileBytes = (nint)tiles * sizeof(AttentionTile);
        nint itemBytes = (nint)PartialCount * sizeof(int);
        nint header = (tileBytes + itemBytes + 63) / 64 * 64;
        var memory = context.Scratch.Rent(checked(header + PartialCount * PartialSize * sizeof(float)));
        Tiles = (AttentionTile*)memory;
        PartialTiles = (int*)(memory + tileBytes);
        Partials = (float*)(memory + header);

        tiles = splits = 0;
        for (var s = 0; s < a.SequenceCount; s++) Add(a, s, Tiles, ref tiles, ref splits);
        if (!SplitsAreItems) return;
        for (var i = 0; i < tiles; i++) new Span<int>(PartialTiles + Tiles[i].FirstPartial, Tiles[i].SplitCount).Fill(i);
    }

    /// <summary>Query heads of a KV head.</summary>
    public int Group { get; }
    /// <summary>Head dimension rounded up to whole lanes.</summary>
    public int Stride { get; }
    public int TileTokens { get; }
    public int TileCount { get; }
    public AttentionTile* Tiles { get; }
    public bool SplitsAreItems { get; }
    public int PartialCount { get; }
    /// <summary>[partials] tile of each partial result.</summary>
    public int* PartialTiles { get; }

    private float* Partials { get; }
    private nint PartialSize { get; }

    /// <summary>One partial result: accumulators [queries, stride], then maxima [queries], then sums [queries].</summary>
    public float* Partial(int index) => Partials + index * PartialSize;

    private void Add(in AttentionArguments a, int sequence, AttentionTile* tiles, ref int tileCount, ref int splitCount)
    {
        if (((SequenceFlags)a.Flags[sequence] & SequenceFlags.Dead) != 0) return;
        var end = a.SequenceStarts[sequence + 1];
        for (var first = a.SequenceStarts[sequence]; first < end; first += TileTokens)
        {
            var count = Math.Min(TileTokens, end - first);
            var splits = a.Positions[first + count - 1] / SplitSize + 1;
            for (var h = a.KvHeadBegin; h < a.KvHeadEnd; h++)
            {
                if (tiles != null)
                {
                    tiles[tileCount] = new AttentionTile
                    {
                        Sequence = sequence, FirstToken = first, TokenCount = count, KvHead = h, SplitCount = splits, FirstPartial = splitCount,
                    };
                }
                tileCount++;
                splitCount = checked(splitCount + splits);
            }
        }
    }
}
