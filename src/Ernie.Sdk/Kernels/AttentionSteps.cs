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
            if (IsDead(a, s)) continue;
            for (var t = begin; t < end; t++)
            {
                if (a.Positions[t] != a.Positions[begin] + (t - begin)) throw new InvalidOperationException($"The positions of sequence {s} are not consecutive.");
            }
            if (begin == end) continue;
            if (end - begin > 1 && IsDecode(a, s)) throw new InvalidOperationException($"Sequence {s} decodes {end - begin} tokens in one step.");
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

    /// <summary>Whether the sequence's request has ended. May become true while the step runs, never false.</summary>
    public static bool IsDead(in AttentionArguments a, int sequence) => ((SequenceFlags)Volatile.Read(ref a.Flags[sequence]) & SequenceFlags.Dead) != 0;

    public static bool IsDecode(in AttentionArguments a, int sequence) => ((SequenceFlags)a.Flags[sequence] & SequenceFlags.Decode) != 0;

    /// <summary>Whether tokens of a sequence inside block <paramref name="block"/> read selected blocks only.</summary>
    public static bool IsSparse(in AttentionArguments a, int sequence, int block)
    {
        if (a.Limits == null) return false;
        return IsDecode(a, sequence) ? !a.Limits[sequence].DecodeIsDense(a.Positions[a.SequenceStarts[sequence]]) : !a.DensePrefill && !a.Limits[sequence].PrefillIsDense(block);
    }

    /// <summary>Tokens of a sequence's block <paramref name="block"/> that are cached when the step's own are.</summary>
    public static int Present(in AttentionArguments a, int sequence, int block) =>
        Math.Min(KvBlockLayout.BlockSize, a.Positions[a.SequenceStarts[sequence + 1] - 1] + 1 - block * KvBlockLayout.BlockSize);
}
