using System.Numerics;

namespace Ernie.Sdk.Tokenization;

/// <summary>What two adjacent symbols merge into, by their packed ids: open addressing, so that the inner loop hashes no text.</summary>
internal sealed class MergeTable(int expectedCount)
{
    public const int NoMerge = int.MaxValue;

    private const ulong Empty = ulong.MaxValue;

    private Slot[] _slots = NewSlots((int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(16, expectedCount * 2)));

    public int Count { get; private set; }

    private struct Slot
    {
        public ulong Key;
        public int Id;
        public int Rank;
    }

    public void Add(int left, int right, int id, int rank)
    {
        if (Count * 2 >= _slots.Length) Grow();
        Insert(_slots, new Slot { Key = Pack(left, right), Id = id, Rank = rank });
        Count++;
    }

    /// <summary>Rank of the merge, smaller first, or <see cref="NoMerge"/>. Negative symbols never merge.</summary>
    public int Find(int left, int right, out int id)
    {
        id = -1;
        if ((left | right) < 0) return NoMerge;
        var key = Pack(left, right);
        var slots = _slots;
        for (var i = Start(key, slots.Length); ; i = (i + 1) & (slots.Length - 1))
        {
            ref readonly var slot = ref slots[i];
            if (slot.Key == key)
            {
                id = slot.Id;
                return slot.Rank;
            }
            if (slot.Key == Empty) return NoMerge;
        }
    }

    private static ulong Pack(int left, int right) => ((ulong)(uint)left << 32) | (uint)right;

    private static int Start(ulong key, int length)
    {
        // Both halves have to reach the high bits, which the shift keeps.
        var mixed = (key ^ (key >> 29)) * 0x9E3779B97F4A7C15;
        return (int)((mixed ^ (mixed >> 32)) & (uint)(length - 1));
    }

    private static void Insert(Slot[] slots, Slot slot)
    {
        var i = Start(slot.Key, slots.Length);
        while (slots[i].Key != Empty) i = (i + 1) & (slots.Length - 1);
        slots[i] = slot;
    }

    private void Grow()
    {
        var larger = NewSlots(_slots.Length * 2);
        foreach (var slot in _slots)
        {
            if (slot.Key != Empty) Insert(larger, slot);
        }
        _slots = larger;
    }

    private static Slot[] NewSlots(int length)
    {
        var slots = new Slot[length];
        Array.Fill(slots, new Slot { Key = Empty });
        return slots;
    }
}
