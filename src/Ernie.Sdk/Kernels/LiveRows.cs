namespace Ernie.Sdk.Kernels;

/// <summary>
/// Which of a step's tokens somebody still waits for. Flags may change while the step runs: kernels look again at every tile and leave out tiles of dead rows, whose results nobody reads.
/// The default value has no dead rows.
/// </summary>
/// <param name="flags">[sequences] <see cref="SequenceFlags"/>.</param>
/// <param name="starts">[sequences + 1] first token of each sequence.</param>
/// <param name="sequenceCount">Sequences of the step.</param>
internal readonly unsafe struct LiveRows(int* flags, int* starts, int sequenceCount)
{
    /// <summary>Whether rows [first, first + count) of a tensor of <paramref name="rowCount"/> rows are all dead. False where the rows are no tokens of the step.</summary>
    public bool AreDead(int first, int count, int rowCount)
    {
        if (sequenceCount == 0 || starts[sequenceCount] != rowCount) return false;
        for (var s = 0; s < sequenceCount; s++)
        {
            if (starts[s + 1] <= first || starts[s] == starts[s + 1]) continue;
            if (starts[s] >= first + count) break;
            if (((SequenceFlags)Volatile.Read(ref flags[s]) & SequenceFlags.Dead) == 0) return false;
        }
        return true;
    }
}
