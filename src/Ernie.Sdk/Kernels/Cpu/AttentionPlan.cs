namespace Ernie.Sdk.Kernels;

/// <summary>
/// The work items of one attention call, in scratch memory. With few tiles (decode of few sequences) each split of the blocks that a tile reads is an item and leaves a partial result;
/// with many (prefill) a tile runs through its splits itself. Both add in the same order, so the choice changes no bit.
/// </summary>
internal unsafe struct AttentionPlan
{
    /// <summary>Blocks of a split. Part of the order of additions: another value gives other bits.</summary>
    public const int SplitBlocks = 8;
    /// <summary>Queries of a tile at most, unless one token's group has more. They live on the stack: 64 KB at a head dimension of 128.</summary>
    private const int MaxQueries = 32;
    private const int Alignment = 64;

    private readonly int _threadCount;
    private readonly int _tileTokens;
    private readonly int _sparseTileTokens;
    private readonly float* _partials;
    private readonly nint _partialSize;

    public AttentionPlan(in AttentionArguments a, in KernelContext context, int lanes)
    {
        Group = a.HeadCount / a.KvHeadCount;
        Stride = (a.HeadDim + lanes - 1) / lanes * lanes;
        KvHeadCount = a.KvHeadEnd - a.KvHeadBegin;
        _threadCount = context.Parallel.ThreadCount;
        var queries = Math.Max(1, MaxQueries * 128 / Math.Max(128, a.HeadDim));
        _tileTokens = Fours(Math.Max(1, queries / Group));
        _sparseTileTokens = Fours(queries);

        // First what is needed, then where it lies. A sequence may die in between, so the second may take less than the first asked for.
        var need = new Layout();
        Lay(a, ref need);
        // Partial results are few where tiles are few.
        var partials = need.Tiles < 4 * _threadCount ? need.Splits : 0;
        _partialSize = Math.Max(_tileTokens * Group, need.HasSparsePrefill ? _sparseTileTokens : 0) * (nint)(Stride + 2);
        nint packBytes = Aligned(need.Packs * (nint)sizeof(AttentionPack)), tileBytes = Aligned(need.Tiles * (nint)sizeof(AttentionTile));
        nint listBytes = Aligned(need.ListInts * sizeof(int)), scratchBytes = Aligned(need.ScratchFloats * sizeof(float)), partialTileBytes = Aligned(partials * (nint)sizeof(int));
        var memory = context.Scratch.Rent(checked(packBytes + tileBytes + listBytes + scratchBytes + partialTileBytes + partials * _partialSize * sizeof(float)));
        Packs = (AttentionPack*)memory;
        Tiles = (AttentionTile*)(memory += packBytes);
        var lists = (int*)(memory += tileBytes);
        var scratch = (float*)(memory += listBytes);
        PartialTiles = (int*)(memory += scratchBytes);
        _partials = (float*)(memory + partialTileBytes);

        var laid = new Layout { PackMemory = Packs, TileMemory = Tiles, ListMemory = lists, ScratchMemory = scratch };
        Lay(a, ref laid);
        (PackCount, TileCount, HasSparsePrefill, DecodeGroups) = (laid.Packs, laid.Tiles, laid.HasSparsePrefill, laid.DecodeGroups);
    }

    /// <summary>Query heads of a KV head.</summary>
    public int Group { get; }
    /// <summary>KV heads that are computed.</summary>
    public int KvHeadCount { get; }
    /// <summary>Head dimension rounded up to whole lanes.</summary>
    public int Stride { get; }
    public int PackCount { get; }
    public AttentionPack* Packs { get; }
    public bool HasSparsePrefill { get; }
    /// <summary>Groups of 128 blocks that the longest sparse decode step chooses from; 0: there is none.</summary>
    public int DecodeGroups { get; }
    public int TileCount { get; }
    public AttentionTile* Tiles { get; }
    public bool SplitsAreItems { get; private set; }
    public int PartialCount { get; private set; }
    /// <summary>[partials] tile of each partial result.</summary>
    public int* PartialTiles { get; }

    /// <summary>Groups of 128 blocks.</summary>
    public static int Groups(int blocks) => (blocks + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;

    /// <summary>One partial result: accumulators [queries, stride], then maxima [queries], then sums [queries].</summary>
    public readonly float* Partial(int index) => _partials + index * _partialSize;

    /// <summary>Counts the blocks of the tiles, which are known when kept blocks are.</summary>
    public void Bind(in AttentionArguments a)
    {
        var splits = 0;
        for (var i = 0; i < TileCount; i++)
        {
            ref var tile = ref Tiles[i];
            // The list of a sequence that has died was perhaps never written.
            tile.BlockCount = AttentionSteps.IsDead(a, tile.Sequence) ? 1 : tile.List == null ? a.Positions[tile.FirstToken + tile.TokenCount - 1] / KvBlockLayout.BlockSize + 1 : tile.List[0];
            tile.FirstPartial = splits;
            splits = checked(splits + tile.SplitCount);
        }
        SplitsAreItems = splits > TileCount && TileCount < 4 * _threadCount;
        PartialCount = SplitsAreItems ? splits : 0;
        if (!SplitsAreItems) return;
        for (var i = 0; i < TileCount; i++) new Span<int>(PartialTiles + Tiles[i].FirstPartial, Tiles[i].SplitCount).Fill(i);
    }

    /// <summary>Whole fours of tokens share loads between four queries without a rest.</summary>
    private static int Fours(int tokens) => tokens >= 4 ? tokens & ~3 : tokens;

    private static nint Aligned(nint bytes) => checked((bytes + Alignment - 1) / Alignment * Alignment);

    private readonly void Lay(in AttentionArguments a, ref Layout layout)
    {
        for (var s = 0; s < a.SequenceCount; s++)
        {
            var (first, end) = (a.SequenceStarts[s], a.SequenceStarts[s + 1]);
            if (first == end || AttentionSteps.IsDead(a, s)) continue;
            var isDecode = AttentionSteps.IsDecode(a, s);
            var lastBlock = a.Positions[end - 1] / KvBlockLayout.BlockSize;
            // A later pack is sparse if an earlier one is.
            var isSparse = AttentionSteps.IsSparse(a, s, lastBlock);
            var scratch = layout.ScratchMemory;
            if (isSparse) layout.TakeScratch((nint)KvHeadCount * Groups(lastBlock + 1) * KvBlockLayout.BlockSize * (isDecode ? Group : a.HeadDim));
            if (isSparse && isDecode) layout.DecodeGroups = Math.Max(layout.DecodeGroups, Groups(lastBlock + 1));
            layout.HasSparsePrefill |= isSparse && !isDecode;

            var dense = first;
            for (int t = first, count; t < end; t += count)
            {
                count = Math.Min(end - t, KvBlockLayout.BlockSize - a.Positions[t] % KvBlockLayout.BlockSize);
                var pack = new AttentionPack { Sequence = s, FirstToken = t, TokenCount = count, Block = a.Positions[t] / KvBlockLayout.BlockSize, IsDecode = isDecode, IsLast = t + count == end };
                pack.IsSparse = AttentionSteps.IsSparse(a, s, pack.Block);
                if (pack.IsSparse)
                {
                    pack.Scratch = scratch;
                    pack.Lists = layout.ListMemory;
                    layout.TakeLists((isDecode ? 1 : Group) * KvHeadCount * pack.ListInts);
                }
                else dense = t + count;
                layout.Add(pack);
                if (pack.IsSparse && !isDecode) AddTiles(a, ref layout, pack);
            }
            if (isSparse && isDecode) AddTiles(a, ref layout, s, first, end, layout.PackMemory == null ? null : layout.PackMemory + layout.Packs - 1);
            else AddTiles(a, ref layout, s, first, dense, null);
        }
    }

    /// <summary>Tokens whose query heads all read the same blocks.</summary>
    private readonly void AddTiles(in AttentionArguments a, ref Layout layout, int sequence, int first, int end, AttentionPack* pack)
    {
        for (var t = first; t < end; t += _tileTokens)
        {
            for (var h = 0; h < KvHeadCount; h++)
            {
                layout.Add(new AttentionTile
                {
                    Sequence = sequence, FirstToken = t, TokenCount = Math.Min(_tileTokens, end - t), KvHead = a.KvHeadBegin + h,
                    FirstHead = (a.KvHeadBegin + h) * Group, HeadCount = Group, List = pack == null ? null : pack->List(h),
                }, a.Positions[Math.Min(t + _tileTokens, end) - 1] / KvBlockLayout.BlockSize + 1);
            }
        }
    }

    /// <summary>Tokens of a pack whose query heads read blocks of their own.</summary>
    private readonly void AddTiles(in AttentionArguments a, ref Layout layout, in AttentionPack pack)
    {
        for (var i = 0; i < KvHeadCount * Group; i++)
        {
            for (var t = 0; t < pack.TokenCount; t += _sparseTileTokens)
            {
                layout.Add(new AttentionTile
                {
                    Sequence = pack.Sequence, FirstToken = pack.FirstToken + t, TokenCount = Math.Min(_sparseTileTokens, pack.TokenCount - t), KvHead = a.KvHeadBegin + i / Group,
                    FirstHead = a.KvHeadBegin * Group + i, HeadCount = 1, List = pack.List(i),
                }, pack.Block + 1);
            }
        }
    }

    /// <summary>Counts, and without memory does nothing else.</summary>
    private struct Layout
    {
        public AttentionPack* PackMemory;
        public AttentionTile* TileMemory;
        public int* ListMemory;
        public float* ScratchMemory;
        public int Packs, Tiles, Splits, DecodeGroups;
        public nint ListInts, ScratchFloats;
        public bool HasSparsePrefill;

        public void Add(in AttentionPack pack)
        {
            if (PackMemory != null) PackMemory[Packs] = pack;
            Packs++;
        }

        public void Add(in AttentionTile tile, int blocks)
        {
            if (TileMemory != null) TileMemory[Tiles] = tile;
            Tiles++;
            Splits = checked(Splits + (blocks + SplitBlocks - 1) / SplitBlocks);
        }

        public void TakeLists(nint ints)
        {
            if (ListMemory != null) ListMemory += ints;
            ListInts = checked(ListInts + ints);
        }

        public void TakeScratch(nint floats)
        {
            if (ScratchMemory != null) ScratchMemory += floats;
            ScratchFloats = checked(ScratchFloats + floats);
        }
    }
}
