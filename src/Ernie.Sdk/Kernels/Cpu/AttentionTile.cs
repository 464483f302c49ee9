namespace Ernie.Sdk.Kernels;

/// <summary>Consecutive tokens of one sequence with one KV head: their query heads read the cache together.</summary>
internal struct AttentionTile
{
    public int Sequence;
    public int FirstToken;
    public int TokenCount;
    public int KvHead;
    /// <summary>Splits of the cache that the last token sees.</summary>
    public int SplitCount;
    /// <summary>Where the tile's partial results begin, when splits are work items of their own.</summary>
    public int FirstPartial;
}
