namespace Ernie.Sdk.Kernels;

/// <summary>What every attention kernel does before it starts threads.</summary>
internal static unsafe class AttentionSteps
{
    /// <summary>
    /// Fills the rotation table up to the step's last position, and checks that every block the step touches lies in the pool: a wrong entry would
    /// overwrite another sequence's cache or foreign memory.
    /// </summary>
    public static void Prepare(in AttentionArguments a)
    {
        if (a.SequenceStarts[0] != 0 || a.SequenceStarts[a.SequenceCount] != a.TokenCount)
            throw new InvalidOperationException($"Sequences must run from token 0 to {a.TokenCount}.");
        var last = -1;
        for (var s = 0; s < a.SequenceCount; s++)
        {
            var begin = a.SequenceStarts[s];
            var end = a.SequenceStarts[s + 1];
            if (begin < 0 || end < begin || end > a.TokenCount) throw new InvalidOperationException($"Sequence {s} has tokens {begin} to {end} of {a.TokenCount}.");
            if (((SequenceFlags)a.Flags[s] & SequenceFlags.Dead) != 0) continue;
            for (var t = begin; t < end; t++)
            {
                if (a.Positions[t] != a.Positions[begin] + (t - begin)) throw new InvalidOperationException($"The positions of sequence {s} are not consecutive.");
            }
            if (begin == end) continue;
            var position = a.Positions[end - 1];
            var blocks = position / KvBlockLayout.BlockSize + 1;
            if (a.Positions[begin] < 0 || blocks > a.BlockTableStride)
                throw new InvalidOperationException($"Sequence {s} has position {position}; its block table has {a.BlockTableStride} entries.");
            for (var j = 0; j < blocks; j++)
            {
                var block = a.BlockTables[(nint)s * a.BlockTableStride + j];
                if ((uint)block >= (uint)a.PoolBlockCount) throw new InvalidOperationException($"Sequence {s} names block {block} of a pool of {a.PoolBlockCount}.");
            }
            last = Math.Max(last, position);
        }
        if (last >= 0) a.Rope.Ensure(last);
    }
}
