namespace Ernie.Sdk.Kernels;

/// <summary>Which blocks sparse attention kept in one call. Only selections are noted: what is not here read every block.</summary>
internal sealed class BlockSelections
{
    private readonly List<BlockSelection> _items = [];

    public IReadOnlyList<BlockSelection> Items => _items;

    public void Clear() => _items.Clear();

    /// <summary>Called on the thread that runs the kernel.</summary>
    public void Add(BlockSelection selection) => _items.Add(selection);
}

/// <summary>The kept blocks of one pack, the tokens of a step inside one block of the cache, and one head.</summary>
/// <param name="Sequence">Index in the step.</param>
/// <param name="FirstToken">First token of the pack in the step.</param>
/// <param name="TokenCount">Its tokens.</param>
/// <param name="IsDecode">By which rule.</param>
/// <param name="Head">A query head, or in decode a KV head: all its query heads read the same blocks.</param>
/// <param name="Blocks">Kept blocks of the sequence, ascending.</param>
internal sealed record BlockSelection(int Sequence, int FirstToken, int TokenCount, bool IsDecode, int Head, int[] Blocks);
