using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Decides what the next step computes: one token of every decoding sequence, and prompt chunks that end at multiples of 128 within a token budget. Short prompts go first, so that a long document
/// does not hold up everybody else; the oldest prompt always gets one block, so that it arrives too.
/// </summary>
/// <remarks>
/// Memory is taken block by block. A sequence is admitted when its tokens so far fit beside the others'. When answers outgrow the cache, conversations that wait for their next turn lose their blocks
/// first, then the youngest sequence does and waits again. Whoever lost blocks computes them again, each run in its own way (<see cref="TokenContext.Next"/>), to the same bits.
/// </remarks>
internal sealed class Scheduler(KvCache cache, int maxConcurrentRequests, ChunkBudget budget)
{
    /// <summary>How often a waiting sequence that needs more memory than is free may be passed by smaller ones. Arbitrary.</summary>
    private const int MaxOvertakings = 64;

    private readonly List<Sequence> _waiting = [];
    /// <summary>In order of admission.</summary>
    private readonly List<Sequence> _running = [];
    private readonly List<(Sequence Sequence, int TokenCount, bool IsDecode)> _step = [];
    /// <summary>Contexts that hold blocks and do not run, between two turns or waiting for the next one, the longest unused one first.</summary>
    private readonly LinkedList<TokenContext> _resting = new();
    private bool _isOldestTurn;
    private Sequence? _growing;

    public bool IsIdle => _waiting.Count == 0 && _running.Count == 0;
    public int WaitingCount => _waiting.Count;
    public int RunningCount => _running.Count;
    public IEnumerable<Sequence> All => _running.Concat(_waiting);
    /// <summary>Sequences of the planned step with the tokens each has in it, in batch order.</summary>
    public IReadOnlyList<(Sequence Sequence, int TokenCount, bool IsDecode)> Step => _step;
    /// <summary>Whose fault a failed step or plan is: the sequences of the step, and the one that was given memory.</summary>
    public Sequence[] Failing => [.. _step.Select(static s => s.Sequence).Append(_growing).OfType<Sequence>().Distinct()];
    /// <summary>Sequences that had to wait again since the beginning.</summary>
    public long Preemptions { get; private set; }

    public void Enqueue(Sequence sequence)
    {
        // Blocks that a waiting turn could not be deprived of would be lost to all others: enough such turns would wait for one another.
        if (_resting.Remove(sequence.Context)) _resting.AddLast(sequence.Context);
        sequence.Begin();
        _waiting.Add(sequence);
    }

    /// <summary>Drops cancelled sequences, admits waiting ones, and fills <paramref name="batch"/>. False when there is nothing to compute.</summary>
    public bool Plan(StepBatch batch)
    {
        for (var i = _running.Count - 1; i >= 0; i--)
        {
            if (_running[i].IsCancelled) Finish(_running[i]);
        }
        Admit();
        while (true)
        {
            batch.Clear();
            _step.Clear();
            PlanDecode(batch);
            PlanPrefill(batch);
            // Prompts alone may hold all memory between them, and none has enough.
            if (batch.TokenCount > 0 || _running.Count == 0) return batch.TokenCount > 0;
            if (!TryReclaimResting()) Preempt(_running[^1]);
        }
    }

    /// <summary>Records a step that was computed.</summary>
    public void Advance(Sequence sequence, int tokenCount)
    {
        var context = sequence.Context;
        context.Advance(context.Computed + tokenCount);
        for (; context.PublishedBlocks < context.Computed / KvBlockLayout.BlockSize && context.TryKey(context.PublishedBlocks, out var key); context.PublishedBlocks++)
            cache.Publish(key, context.BlockTable[context.PublishedBlocks]);
    }

    /// <summary>Gives a sequence's memory back, or lets its context rest.</summary>
    public void Finish(Sequence sequence, Exception? failure = null)
    {
        if (!_running.Remove(sequence)) _waiting.Remove(sequence);
        if (sequence.KeepsContext) Rest(sequence.Context);
        else Release(sequence.Context);
        sequence.Complete(failure);
    }

    /// <summary>Takes a context's blocks; it computes them again when it is needed.</summary>
    public void Release(TokenContext context)
    {
        _resting.Remove(context);
        foreach (var block in context.BlockTable) cache.Release(block);
        context.BlockTable.Clear();
        context.Lose(0);
    }

    /// <summary>A context that is not used now, and keeps its blocks as long as nobody needs them.</summary>
    public void Rest(TokenContext context)
    {
        // A step that was broken off leaves blocks with nothing in them.
        Trim(context);
        _resting.Remove(context);
        _resting.AddLast(context);
    }

    /// <summary>A second context with the same tokens. Full blocks are shared, the last one is copied where memory is free.</summary>
    public TokenContext Fork(TokenContext context)
    {
        var copy = context.Copy();
        var full = context.Computed / KvBlockLayout.BlockSize;
        for (var b = 0; b < full; b++)
        {
            cache.Retain(context.BlockTable[b]);
            copy.BlockTable.Add(context.BlockTable[b]);
        }
        copy.Advance(full * KvBlockLayout.BlockSize);
        copy.PublishedBlocks = Math.Min(context.PublishedBlocks, full);
        if (context.Computed > copy.Computed && cache.FreeBlockCount > 0)
        {
            try
            {
                copy.BlockTable.Add(cache.Allocate());
                cache.Copy(context.BlockTable[full], copy.BlockTable[full]);
            }
            catch
            {
                // Nobody gets the copy, so nobody would give its blocks back.
                copy.BlockTable.ForEach(cache.Release);
                throw;
            }
            copy.Advance(context.Computed);
        }
        Rest(copy);
        return copy;
    }

    /// <summary>A copy of a resting context that holds the same blocks, the last one too: neither may go on before the copy is released.</summary>
    public TokenContext Hold(TokenContext context)
    {
        var copy = context.Copy();
        foreach (var block in context.BlockTable.Take(KvCache.BlocksFor(context.Computed)))
        {
            cache.Retain(block);
            copy.BlockTable.Add(block);
        }
        copy.Advance(context.Computed);
        return copy;
    }

    /// <summary>Up to <paramref name="count"/> blocks for a context that comes from outside; fewer where requests hold the others.</summary>
    public List<int> Take(int count)
    {
        var blocks = new List<int>();
        try
        {
            while (blocks.Count < count && (cache.FreeBlockCount > 0 || TryReclaimResting())) blocks.Add(cache.Allocate());
        }
        catch
        {
            blocks.ForEach(cache.Release);
            throw;
        }
        return blocks;
    }

    /// <summary>Drops the tokens of a resting context from <paramref name="count"/> on.</summary>
    public void Cut(TokenContext context, int count)
    {
        context.Cut(count);
        Trim(context);
        var begin = context.Computed / KvBlockLayout.BlockSize;
        if (context.Computed % KvBlockLayout.BlockSize == 0 || cache.TryOwn(context.BlockTable[begin])) return;
        // The next token is written into the last block, which others read.
        var shared = context.BlockTable[begin];
        context.BlockTable.RemoveAt(begin);
        if (cache.FreeBlockCount > 0)
        {
            try
            {
                context.BlockTable.Add(cache.Allocate());
                cache.Copy(shared, context.BlockTable[begin]);
            }
            catch
            {
                // The block holds nothing: its tokens are computed again.
                context.Lose(begin * KvBlockLayout.BlockSize);
                Trim(context);
                cache.Release(shared);
                throw;
            }
        }
        else
        {
            context.Lose(begin * KvBlockLayout.BlockSize);
        }
        cache.Release(shared);
    }

    /// <summary>In order of arrival; a sequence that does not fit yet may be passed by smaller ones, but not for ever.</summary>
    private void Admit()
    {
        for (var i = 0; i < _waiting.Count;)
        {
            var next = _waiting[i];
            if (next.IsCancelled)
            {
                Finish(next);
            }
            else if (Admits(next))
            {
                _waiting.RemoveAt(i);
                _resting.Remove(next.Context);
                for (var passed = 0; passed < i; passed++) _waiting[passed].Overtakings++;
                Reuse(next);
                _running.Add(next);
            }
            else if (_running.Count >= maxConcurrentRequests || next.Overtakings >= MaxOvertakings)
            {
                foreach (var cancelled in _waiting.Where(static s => s.IsCancelled).ToArray()) Finish(cancelled);
                return;
            }
            else
            {
                i++;
            }
        }
    }

    private bool Admits(Sequence sequence)
    {
        if (_running.Count >= maxConcurrentRequests) return false;
        while (true)
        {
            // A spare block for each sequence that already decodes: its answer grows before this prompt is through.
            var wanted = Missing(sequence) + _running.Sum(static s => Missing(s) + 1);
            if (wanted <= cache.FreeBlockCount) return true;
            var others = _resting.Sum(static context => context.BlockTable.Count) - (_resting.Contains(sequence.Context) ? sequence.Context.BlockTable.Count : 0);
            if (wanted > cache.FreeBlockCount + others || !TryReclaimResting(sequence.Context)) return false;
        }
    }

    /// <summary>Blocks that a sequence still takes for its tokens and the next one.</summary>
    private static int Missing(Sequence sequence) => KvCache.BlocksFor(sequence.Context.Tokens.Count + 1) - sequence.Context.BlockTable.Count;

    /// <summary>Takes the blocks that other contexts with the same beginning have computed. The last token is always computed: someone wants its logits.</summary>
    private void Reuse(Sequence sequence)
    {
        var context = sequence.Context;
        if (sequence.OnLogits is null && context.Computed % KvBlockLayout.BlockSize == 0)
        {
            var reusable = (context.Tokens.Count - 1) / KvBlockLayout.BlockSize;
            while (context.BlockTable.Count < reusable && context.TryKey(context.BlockTable.Count, out var key) && cache.TryShare(key, out var block))
            {
                context.BlockTable.Add(block);
                context.Advance(context.Computed + KvBlockLayout.BlockSize);
                context.PublishedBlocks = context.BlockTable.Count;
            }
        }
        if (sequence.CachedTokens < 0) sequence.CachedTokens = Math.Min(context.Computed, sequence.PromptLength);
    }

    private void PlanDecode(StepBatch batch)
    {
        // Preempted sequences leave the end of the list.
        for (var i = 0; i < _running.Count; i++)
        {
            var sequence = _running[i];
            var (end, isDecode, limits) = sequence.Context.Next();
            if (!isDecode) continue;
            while (i < _running.Count && !TryGrow(sequence, end))
            {
                if (!TryReclaimResting()) Preempt(_running[^1]);
            }
            if (i < _running.Count) Add(batch, sequence, 1, isDecode: true, limits);
        }
    }

    private void PlanPrefill(StepBatch batch)
    {
        var oldest = _running.Find(static s => !s.Context.Next().IsDecode);
        if (oldest is null) return;
        var left = budget.Tokens(_step.Count);
        // A budget of one block cannot be shared: it goes to the oldest prompt and to the shortest in turn.
        _isOldestTurn = left > KvBlockLayout.BlockSize || !_isOldestTurn;
        var reserved = _isOldestTurn ? Math.Min(KvBlockLayout.BlockSize, Left(oldest)) : 0;
        foreach (var sequence in _running.Where(static s => !s.Context.Next().IsDecode).OrderBy(Left).ToArray())
        {
            var context = sequence.Context;
            if (sequence == oldest) reserved = 0;
            var available = left - reserved;
            // Every row of a scored chunk has logits, a gigabyte for some thousand rows: one block at a time.
            var end = context.Computed + Math.Min(Left(sequence), sequence.OnLogits is null ? available : Math.Min(available, KvBlockLayout.BlockSize));
            if (end < context.Computed + Left(sequence)) end -= end % KvBlockLayout.BlockSize;
            while (end > context.Computed && !TryGrow(sequence, end)) end = Math.Min(end - 1, context.BlockTable.Count * KvBlockLayout.BlockSize);
            if (end <= context.Computed) continue;
            left -= end - context.Computed;
            Add(batch, sequence, end - context.Computed, isDecode: false, context.Next().Limits);
        }

        static int Left(Sequence sequence) => sequence.Context.Next().End - sequence.Context.Computed;
    }

    private bool TryGrow(Sequence sequence, int end)
    {
        var context = sequence.Context;
        _growing = sequence;
        while (context.BlockTable.Count < KvCache.BlocksFor(end))
        {
            if (cache.FreeBlockCount == 0)
            {
                _growing = null;
                return false;
            }
            context.BlockTable.Add(cache.Allocate());
        }
        _growing = null;
        return true;
    }

    private void Trim(TokenContext context)
    {
        for (var b = context.BlockTable.Count - 1; b >= KvCache.BlocksFor(context.Computed); b--)
        {
            cache.Release(context.BlockTable[b]);
            context.BlockTable.RemoveAt(b);
        }
    }

    /// <summary>Takes the blocks of the longest unused resting context that has any.</summary>
    /// <param name="except">One that keeps its blocks, for it is about to run.</param>
    public bool TryReclaimResting(TokenContext? except = null)
    {
        for (var node = _resting.First; node is not null;)
        {
            var context = node.Value;
            node = node.Next;
            if (context == except) continue;
            var held = context.BlockTable.Count;
            Release(context);
            if (held > 0) return true;
        }
        return false;
    }

    private void Preempt(Sequence sequence)
    {
        _running.Remove(sequence);
        Release(sequence.Context);
        sequence.Preemptions++;
        Preemptions++;
        _waiting.Insert(0, sequence);
    }

    private void Add(StepBatch batch, Sequence sequence, int tokenCount, bool isDecode, SparseLimits limits)
    {
        var context = sequence.Context;
        _step.Add((sequence, tokenCount, isDecode));
        var end = context.Computed + tokenCount;
        var logits = sequence.OnLogits is not null ? tokenCount : end == context.Tokens.Count ? 1 : 0;
        batch.Add(CollectionsMarshal.AsSpan(context.Tokens).Slice(context.Computed, tokenCount), context.Computed, context.BlockTable, isDecode ? SequenceFlags.Decode : SequenceFlags.None, limits, logits);
    }
}
