using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Decides what the next step computes: one token of every decoding sequence, and prompt chunks that start at multiples of 128 within a token budget. Short prompts go first, so that a long document
/// does not hold up everybody else; the oldest prompt always gets one block, so that it arrives too.
/// </summary>
internal sealed class Scheduler(KvCache cache, int maxConcurrentRequests, int prefillChunkTokens)
{
    /// <summary>How often a waiting sequence that needs more memory than is free may be passed by smaller ones. Arbitrary.</summary>
    private const int MaxOvertakings = 64;

    private readonly List<Sequence> _waiting = [];
    private readonly List<Sequence> _running = [];
    private readonly List<(Sequence Sequence, int TokenCount)> _step = [];
    private int _reservedBlocks;
    private bool _isOldestTurn;

    public bool IsIdle => _waiting.Count == 0 && _running.Count == 0;
    public IEnumerable<Sequence> All => _running.Concat(_waiting);
    /// <summary>Sequences of the planned step with the tokens each has in it, in batch order.</summary>
    public IReadOnlyList<(Sequence Sequence, int TokenCount)> Step => _step;

    public void Enqueue(Sequence sequence) => _waiting.Add(sequence);

    /// <summary>Drops cancelled sequences, admits waiting ones, and fills <paramref name="batch"/>. False when there is nothing to compute.</summary>
    public bool Plan(StepBatch batch)
    {
        for (var i = _running.Count - 1; i >= 0; i--)
        {
            if (_running[i].IsCancelled) Finish(_running[i]);
        }
        Admit();

        batch.Clear();
        _step.Clear();
        foreach (var sequence in _running)
        {
            if (!sequence.IsPrefill) Add(batch, sequence, 1, SequenceFlags.Decode);
        }
        PlanPrefill(batch);
        return batch.TokenCount > 0;
    }

    /// <summary>In order of arrival; a sequence that does not fit yet may be passed by smaller ones, but not for ever.</summary>
    private void Admit()
    {
        for (var i = 0; i < _waiting.Count;)
        {
            var next = _waiting[i];
            if (next.IsCancelled)
            {
                _waiting.RemoveAt(i);
                next.Complete();
            }
            else if (Admits(next))
            {
                _waiting.RemoveAt(i);
                for (var passed = 0; passed < i; passed++) _waiting[passed].Overtakings++;
                _reservedBlocks += next.ReservedBlocks;
                _running.Add(next);
            }
            else if (_running.Count >= maxConcurrentRequests || next.Overtakings >= MaxOvertakings)
            {
                _waiting.RemoveAll(static s => Drop(s));
                return;
            }
            else
            {
                i++;
            }
        }

        static bool Drop(Sequence sequence)
        {
            if (sequence.IsCancelled) sequence.Complete();
            return sequence.IsCancelled;
        }
    }

    private void PlanPrefill(StepBatch batch)
    {
        var oldest = _running.Find(static s => s.IsPrefill);
        if (oldest is null) return;
        var budget = prefillChunkTokens;
        // A budget of one block cannot be shared: it goes to the oldest prompt and to the shortest in turn.
        _isOldestTurn = budget > KvBlockLayout.BlockSize || !_isOldestTurn;
        var reserved = _isOldestTurn ? Math.Min(KvBlockLayout.BlockSize, oldest.PromptLength - oldest.Computed) : 0;
        foreach (var sequence in _running.Where(static s => s.IsPrefill).OrderBy(static s => s.PromptLength - s.Computed).ToArray())
        {
            var left = sequence.PromptLength - sequence.Computed;
            if (sequence == oldest) reserved = 0;
            var available = budget - reserved;
            // Every row of a scored chunk has logits, a gigabyte for some thousand rows: one block at a time.
            var chunk = Math.Min(left, sequence.OnLogits is null ? available : Math.Min(available, KvBlockLayout.BlockSize));
            if (chunk < left) chunk -= chunk % KvBlockLayout.BlockSize;
            if (chunk <= 0) continue;
            Add(batch, sequence, chunk, SequenceFlags.None);
            budget -= chunk;
        }
    }

    /// <summary>Gives a sequence's memory back.</summary>
    public void Finish(Sequence sequence, Exception? failure = null)
    {
        if (_running.Remove(sequence))
        {
            foreach (var block in sequence.BlockTable) cache.Free(block);
            sequence.BlockTable.Clear();
            _reservedBlocks -= sequence.ReservedBlocks;
        }
        sequence.Complete(failure);
    }

    private bool Admits(Sequence sequence) => _running.Count < maxConcurrentRequests && _reservedBlocks + sequence.ReservedBlocks <= cache.BlockCount;

    private void Add(StepBatch batch, Sequence sequence, int tokenCount, SequenceFlags flags)
    {
        // First, so that a sequence that gets no memory is among those that end with the error.
        _step.Add((sequence, tokenCount));
        var end = sequence.Computed + tokenCount;
        while (sequence.BlockTable.Count < KvCache.BlocksFor(end)) sequence.BlockTable.Add(cache.Allocate());
        var logits = sequence.OnLogits is not null ? tokenCount : end == sequence.Tokens.Count ? 1 : 0;
        batch.Add(CollectionsMarshal.AsSpan(sequence.Tokens).Slice(sequence.Computed, tokenCount), sequence.Computed, sequence.BlockTable, flags, sequence.Limits, logits);
    }
}
