using System.Buffers;

namespace Ernie.Sdk.Tokenization;

/// <summary>A binary heap of merge candidates over pooled memory: smallest rank first, then leftmost.</summary>
internal ref struct CandidateHeap(int capacity)
{
    private ulong[] _entries = ArrayPool<ulong>.Shared.Rent(capacity);
    private int _count;

    /// <summary>Adds without keeping the order; <see cref="Order"/> has to follow.</summary>
    public void Append(int rank, int position) => _entries[_count++] = Pack(rank, position);

    public readonly void Order()
    {
        for (var i = _count / 2 - 1; i >= 0; i--) SiftDown(i);
    }

    public void Push(int rank, int position)
    {
        if (_count == _entries.Length)
        {
            var larger = ArrayPool<ulong>.Shared.Rent(_count * 2);
            _entries.AsSpan(0, _count).CopyTo(larger);
            ArrayPool<ulong>.Shared.Return(_entries);
            _entries = larger;
        }
        var entry = Pack(rank, position);
        var hole = _count++;
        while (hole > 0 && _entries[(hole - 1) / 2] > entry)
        {
            _entries[hole] = _entries[(hole - 1) / 2];
            hole = (hole - 1) / 2;
        }
        _entries[hole] = entry;
    }

    public bool TryPop(out int rank, out int position)
    {
        rank = position = 0;
        if (_count == 0) return false;
        (rank, position) = ((int)(_entries[0] >> 32), (int)(uint)_entries[0]);
        _entries[0] = _entries[--_count];
        if (_count > 0) SiftDown(0);
        return true;
    }

    public readonly void Return() => ArrayPool<ulong>.Shared.Return(_entries);

    private readonly void SiftDown(int hole)
    {
        var entry = _entries[hole];
        for (var child = hole * 2 + 1; child < _count; child = hole * 2 + 1)
        {
            if (child + 1 < _count && _entries[child + 1] < _entries[child]) child++;
            if (_entries[child] >= entry) break;
            _entries[hole] = _entries[child];
            hole = child;
        }
        _entries[hole] = entry;
    }

    private static ulong Pack(int rank, int position) => ((ulong)(uint)rank << 32) | (uint)position;
}
