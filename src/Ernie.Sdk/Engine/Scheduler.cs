using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Decides what the next step computes: one token of every decoding sequence, and prompt chunks that start at multiples of 128 and fill the rest of the token budget, oldest first.
/// </summary>
internal sealed class Scheduler(KvCache cache, int maxConcurrentRequests, int prefillChunkTokens)
{
    private readonly Queue<Sequence> _waiting = new();
    private readonly List<Sequence> _running = [];
    private readonly List<(Sequence Sequence, int TokenCount)> _step = [];
    private int _reservedBlocks;

    public bool IsIdle => _waiting.Count == 0 && _running.Count == 0;
    public IEnumerable<Sequence> All => _running.Concat(_waiting);
    /// <summary>Sequences of the planned step with the tokens each has in it, in batch order.</summary>
    public IReadOnlyList<(Sequence Sequence, int TokenCount)> Step => _step;

    public void Enqueue(Sequence sequence) => _waiting.Enqueue(sequence);

    /// <summary>Drops cancelled sequences, admits waiting ones, and fills <paramref name="batch"/>. False when there is nothing to compute.</summary>
    public bool Plan(StepBatch batch)
    {
        for (var i = _running.Count - 1; i >= 0; i--)
        {
            if (_running[i].IsCancelled) Finish(_running[i]);
        }
        while (_waiting.TryPeek(out var next) && (next.IsCancelled || Admits(next)))
        {
            _waiting.Dequeue();
            if (next.IsCancelled)
            {
                next.Complete();
                continue;
            }
            _reservedBlocks += next.ReservedBlocks;
            _running.Add(next);
        }

        batch.Clear();
        _step.Clear();
        foreach (var sequence in _running)
        {
            if (!sequence.IsPrefill) Add(batch, sequence, 1, SequenceFlags.Decode);
        }
        var budget = prefillChunkTokens;
        foreach (var sequence in _running)
        {
            if (!sequence.IsPrefill) continue;
            var left = sequence.PromptLength - sequence.Computed;
            // Every row of a scored chunk has logits, a gigabyte for some thousand rows: one block at a time.
            var chunk = Math.Min(left, sequence.OnLogits is null ? budget : Math.Min(budget, KvBlockLayout.BlockSize));
            if (chunk < left) chunk -= chunk % KvBlockLayout.BlockSize;
            if (chunk == 0) break;
            Add(batch, sequence, chunk, SequenceFlags.None);
            budget -= chunk;
        }
        return batch.TokenCount > 0;
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
        batch.Add(CollectionsMarshal.AsSpan(sequence.Tokens).Slice(sequence.Computed, tokenCount), sequence.Computed, sequence.BlockTable, flags, logits);
    }
}
