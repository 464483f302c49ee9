using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>A system that has no pages left for blocks of the cache: whoever asks is told, and keeps what it has.</summary>
public sealed class SchedulerFaultTests
{
    private const int Blocks = 8;
    private static readonly int[] s_prompt = [.. Enumerable.Range(1, 140)];

    [Fact]
    public void BlocksWithoutPages_AreNotLost()
    {
        ScarceMemory? memory = null;
        using var cache = new KvCache(new KvBlockLayout(KvElementType.BFloat16, 1, 2), 1, Blocks, bytes => memory = new ScarceMemory(bytes)) { IdleLimit = 0 };
        var scheduler = new Scheduler(cache, 1, new ChunkBudget(128));
        var context = new TokenContext();
        Continue(scheduler, cache, context, s_prompt);
        Assert.Equal(Blocks - 2, cache.FreeBlockCount);

        // A full block is shared; the second one would be a copy.
        memory!.Left = 0;
        Assert.Throws<InsufficientMemoryException>(() => scheduler.Fork(context));
        Assert.Equal(Blocks - 2, cache.FreeBlockCount);
        memory.Left = 1;
        Assert.Throws<InsufficientMemoryException>(() => scheduler.Take(3));
        Assert.Equal(Blocks - 2, cache.FreeBlockCount);

        memory.Left = int.MaxValue;
        var fork = scheduler.Fork(context);
        memory.Left = 0;
        // Its last block is the fork's too, and cannot be copied: its tokens are computed again.
        Assert.Throws<InsufficientMemoryException>(() => scheduler.Cut(context, 100));
        Assert.Equal(100, context.Tokens.Count);
        memory.Left = int.MaxValue;
        Continue(scheduler, cache, context, [7, 8]);
        scheduler.Cut(fork, 100);
        Continue(scheduler, cache, fork, [7, 8]);
        Assert.Equal(fork.Tokens, context.Tokens);
        scheduler.Release(context);
        scheduler.Release(fork);
        Assert.Equal(Blocks, cache.FreeBlockCount);
    }

    private static void Continue(Scheduler scheduler, KvCache cache, TokenContext context, int[] prompt)
    {
        scheduler.Enqueue(new Sequence(context, prompt, 3, SamplingSettings.Greedy, new HashSet<int>(), SparseLimits.Dense) { KeepsContext = true });
        var (batch, steps) = (new StepBatch(), new SimulatedSteps(cache));
        while (scheduler.Plan(batch)) steps.Compute(scheduler);
    }

    /// <summary>Memory that has pages for some blocks only.</summary>
    private sealed unsafe class ScarceMemory(long bytes) : KvMemory
    {
        private readonly HostKvMemory _memory = new(bytes);

        public int Left { get; set; } = int.MaxValue;

        public override void Commit(nint offset, nint bytes)
        {
            if (Left == 0) throw new InsufficientMemoryException();
            Left--;
            _memory.Commit(offset, bytes);
        }

        public override byte* At(nint offset) => _memory.At(offset);
        public override void Decommit(nint offset, nint bytes) => _memory.Decommit(offset, bytes);
        public override void Copy(nint source, nint target, nint bytes) => _memory.Copy(source, target, bytes);
        public override void Read(nint offset, byte* target, nint bytes) => _memory.Read(offset, target, bytes);
        public override void Write(nint offset, byte* source, nint bytes) => _memory.Write(offset, source, bytes);
        public override void Dispose() => _memory.Dispose();
    }
}
