using System.Buffers;

namespace Ernie.Sdk.Tokenization;

/// <summary>
/// Merges adjacent symbols, best score first and leftmost among equals, until no pair is a piece.
/// </summary>
/// <param name="table">What merges into what.</param>
/// <param name="halves">Receives the two halves of each candidate, later ones replacing earlier ones; null if no piece is of type unused.</param>
internal readonly ref struct SymbolMerger(MergeTable table, Dictionary<int, (int Left, int Right)>? halves)
{
    /// <summary>Below this a scan for the best pair beats a heap, as its ranks lie in a few cache lines; the exact limit is arbitrary.</summary>
    private const int ScanLimit = 48;

    /// <summary>Merges in place and returns the number of symbols left.</summary>
    public int Merge(Span<int> symbols) => symbols.Length <= ScanLimit ? MergeByScan(symbols) : MergeByHeap(symbols);

    private int MergeByScan(Span<int> symbols)
    {
        Span<int> merged = stackalloc int[ScanLimit];
        Span<int> ranks = stackalloc int[ScanLimit];
        var count = symbols.Length;
        for (var i = 0; i + 1 < count; i++) ranks[i] = Candidate(symbols[i], symbols[i + 1], out merged[i]);

        while (count > 1)
        {
            var best = 0;
            for (var i = 1; i < count - 1; i++)
            {
                if (ranks[i] < ranks[best]) best = i;
            }
            if (ranks[best] == MergeTable.NoMerge) break;

            symbols[best] = merged[best];
            symbols[(best + 2)..count].CopyTo(symbols[(best + 1)..]);
            merged[(best + 1)..(count - 1)].CopyTo(merged[best..]);
            ranks[(best + 1)..(count - 1)].CopyTo(ranks[best..]);
            count--;
            if (best > 0) ranks[best - 1] = Candidate(symbols[best - 1], symbols[best], out merged[best - 1]);
            if (best + 1 < count) ranks[best] = Candidate(symbols[best], symbols[best + 1], out merged[best]);
        }
        return count;
    }

    private int MergeByHeap(Span<int> symbols)
    {
        var count = symbols.Length;
        var rented = ArrayPool<int>.Shared.Rent(count * 4);
        var next = rented.AsSpan(0, count);
        var previous = rented.AsSpan(count, count);
        var merged = rented.AsSpan(count * 2, count);
        var ranks = rented.AsSpan(count * 3, count);
        var heap = new CandidateHeap(count);
        try
        {
            for (var i = 0; i < count; i++)
            {
                (previous[i], next[i]) = (i - 1, i + 1 < count ? i + 1 : -1);
                ranks[i] = MergeTable.NoMerge;
                if (i + 1 < count) ranks[i] = Candidate(symbols[i], symbols[i + 1], out merged[i]);
                if (ranks[i] != MergeTable.NoMerge) heap.Append(ranks[i], i);
            }
            heap.Order();

            while (heap.TryPop(out var rank, out var left))
            {
                // The entry is stale if the pair at this position has changed since. An absorbed symbol has no merge.
                if (ranks[left] != rank) continue;
                var right = next[left];
                symbols[left] = merged[left];
                ranks[right] = MergeTable.NoMerge;
                next[left] = next[right];
                if (next[left] >= 0) previous[next[left]] = left;

                if (previous[left] is var before and >= 0)
                {
                    ranks[before] = Candidate(symbols[before], symbols[left], out merged[before]);
                    if (ranks[before] != MergeTable.NoMerge) heap.Push(ranks[before], before);
                }
                ranks[left] = next[left] < 0 ? MergeTable.NoMerge : Candidate(symbols[left], symbols[next[left]], out merged[left]);
                if (ranks[left] != MergeTable.NoMerge) heap.Push(ranks[left], left);
            }

            var kept = 0;
            for (var i = 0; i >= 0; i = next[i]) symbols[kept++] = symbols[i];
            return kept;
        }
        finally
        {
            heap.Return();
            ArrayPool<int>.Shared.Return(rented);
        }
    }

    private int Candidate(int left, int right, out int merged)
    {
        var rank = table.Find(left, right, out merged);
        if (halves is not null && rank != MergeTable.NoMerge) halves[merged] = (left, right);
        return rank;
    }
}
