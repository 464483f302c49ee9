using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>The integer inputs of one step: the tokens of its sequences, one after another.</summary>
internal sealed class StepBatch
{
    private readonly List<(IReadOnlyList<int> Table, int Blocks)> _tables = [];

    public List<int> InputIds { get; } = [];
    public List<int> Positions { get; } = [];
    public List<int> SequenceStarts { get; } = [0];
    public List<int> Flags { get; } = [];
    /// <summary>[sequences].</summary>
    public List<SparseLimits> Limits { get; } = [];
    /// <summary>Tokens of the step whose logits are wanted, in the order in which they are returned.</summary>
    public List<int> LogitRows { get; } = [];
    public int TokenCount => InputIds.Count;
    public int SequenceCount => Flags.Count;

    public void Clear()
    {
        InputIds.Clear();
        Positions.Clear();
        SequenceStarts.Clear();
        SequenceStarts.Add(0);
        Flags.Clear();
        Limits.Clear();
        LogitRows.Clear();
        _tables.Clear();
    }

    /// <summary>Adds a sequence's next tokens, which stand at <paramref name="firstPosition"/> and after it.</summary>
    /// <param name="tokens">Ids.</param>
    /// <param name="firstPosition">Position of the first.</param>
    /// <param name="blockTable">Blocks of the sequence, in order, these tokens' included.</param>
    /// <param name="flags">How sparse attention treats them.</param>
    /// <param name="limits">How many blocks of the cache they read.</param>
    /// <param name="logitCount">How many of them, counted from the end, want logits.</param>
    public void Add(ReadOnlySpan<int> tokens, int firstPosition, IReadOnlyList<int> blockTable, SequenceFlags flags, SparseLimits limits, int logitCount)
    {
        for (var i = 0; i < tokens.Length; i++)
        {
            if (i >= tokens.Length - logitCount) LogitRows.Add(InputIds.Count);
            InputIds.Add(tokens[i]);
            Positions.Add(firstPosition + i);
        }
        SequenceStarts.Add(InputIds.Count);
        Flags.Add((int)flags);
        Limits.Add(limits);
        _tables.Add((blockTable, KvCache.BlocksFor(firstPosition + tokens.Length)));
    }

    /// <summary>Whether all prompts, or all decode steps, read every block up to theirs.</summary>
    /// <param name="kind"><see cref="SequenceFlags.Decode"/>, or none for prompts.</param>
    public bool IsDense(SequenceFlags kind)
    {
        for (var s = 0; s < Flags.Count; s++)
        {
            if (((SequenceFlags)Flags[s] & SequenceFlags.Decode) != kind || SequenceStarts[s] == SequenceStarts[s + 1]) continue;
            var last = Positions[SequenceStarts[s + 1] - 1];
            if (!(kind == SequenceFlags.Decode ? Limits[s].DecodeIsDense(last) : Limits[s].PrefillIsDense(last / KvBlockLayout.BlockSize))) return false;
        }
        return true;
    }

    /// <summary>[sequences, width]; unused entries are -1.</summary>
    public int[] BlockTables(out int width)
    {
        width = Math.Max(1, _tables.Count == 0 ? 1 : _tables.Max(static t => t.Blocks));
        var tables = new int[_tables.Count * width];
        tables.AsSpan().Fill(-1);
        for (var s = 0; s < _tables.Count; s++)
        {
            for (var b = 0; b < _tables[s].Blocks; b++) tables[s * width + b] = _tables[s].Table[b];
        }
        return tables;
    }
}
