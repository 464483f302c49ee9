namespace Ernie.Sdk.Tokenization;

/// <summary>
/// Remembers the ids of short words. Direct-mapped: a new word takes the place of the old one in its slot, so memory is bounded.
/// Slots are replaced as whole references to immutable entries; readers on other threads see the old one or the new one.
/// </summary>
internal sealed class WordCache
{
    public const int MaximumWordLength = 24;

    private const int SlotCount = 1 << 14;

    private readonly Entry?[] _slots = new Entry?[SlotCount];

    private sealed record Entry(string Word, int[] Ids);

    /// <summary>The ids of the word; where there are none, <paramref name="slot"/> is the place for <see cref="Store"/>.</summary>
    public bool TryGet(ReadOnlySpan<char> word, out ReadOnlySpan<int> ids, out int slot)
    {
        slot = SlotOf(word);
        var entry = Volatile.Read(ref _slots[slot]);
        if (entry is not null && word.SequenceEqual(entry.Word))
        {
            ids = entry.Ids;
            return true;
        }
        ids = default;
        return false;
    }

    public void Store(int slot, ReadOnlySpan<char> word, ReadOnlySpan<int> ids) =>
        Volatile.Write(ref _slots[slot], new Entry(word.ToString(), ids.ToArray()));

    private static int SlotOf(ReadOnlySpan<char> word)
    {
        var hash = 2166136261u;
        foreach (var c in word) hash = (hash ^ c) * 16777619;
        return (int)((hash ^ (hash >> 15)) & (SlotCount - 1));
    }
}
