namespace Ernie.Sdk.Kernels;

/// <summary>The step's tokens of one sequence inside one block of the cache: they select blocks together.</summary>
internal unsafe struct AttentionPack
{
    public int Sequence;
    public int FirstToken;
    public int TokenCount;
    /// <summary>The block that holds the tokens; those before it are candidates too.</summary>
    public int Block;
    public bool IsSparse;
    public bool IsDecode;
    /// <summary>Whether the sequence has no later pack in the step.</summary>
    public bool IsLast;
    /// <summary>Lists of kept blocks, one a query head, in decode one a KV head; sparse packs only.</summary>
    public int* Lists;
    /// <summary>Prefill: the sequence's summaries [kvHeads, groups, 8 tiles, headDim, 16]. Decode: scores [heads, groups · 128].</summary>
    public float* Scratch;

    /// <summary>A list: its length, then the kept blocks in order.</summary>
    public readonly int* List(int head) => Lists + head * ListInts;
    public readonly nint ListInts => Block + 2;
}

/// <summary>Consecutive tokens of one sequence with one KV head: their query heads read the cache together.</summary>
internal unsafe struct AttentionTile
{
    public int Sequence;
    public int FirstToken;
    public int TokenCount;
    public int KvHead;
    /// <summary>Query heads [first, first + count) of the tile: those of the KV head, or one where each head reads blocks of its own.</summary>
    public int FirstHead;
    public int HeadCount;
    /// <summary>Length and kept blocks that all queries read, or null: all blocks up to the last token's.</summary>
    public int* List;
    /// <summary>Blocks that are read.</summary>
    public int BlockCount;
    /// <summary>Where the tile's partial results begin, when splits are work items of their own.</summary>
    public int FirstPartial;

    public readonly int QueryCount => TokenCount * HeadCount;
    public readonly int SplitCount => (BlockCount + AttentionPlan.SplitBlocks - 1) / AttentionPlan.SplitBlocks;

    /// <summary>The block that is read at <paramref name="index"/>.</summary>
    public readonly int Block(int index) => List == null ? index : List[index + 1];
}
