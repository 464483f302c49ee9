using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The scheduler over a small cache, with a stand-in for the engine that computes nothing.</summary>
public sealed class SchedulerTests
{
    [Fact]
    public void Blocks_AreNeverOvercommitted_AndAllFreeAtTheEnd()
    {
        for (var seed = 0; seed < 150; seed++)
        {
            var random = new Random(seed);
            var blocks = random.Next(3, 20);
            using var cache = Cache(blocks);
            var scheduler = new Scheduler(cache, random.Next(1, 8), 128 * random.Next(1, 5));
            var batch = new StepBatch();
            var sequences = new List<Sequence>();
            for (var step = 0; step < 400 || !scheduler.IsIdle; step++)
            {
                if (step < 300 && random.Next(4) == 0)
                {
                    var prompt = random.Next(1, blocks * 128);
                    sequences.Add(random.Next(6) == 0
                        ? Sequence.ForScoring(new int[prompt], static (_, _) => { }, SparseLimits.Dense)
                        : new Sequence(new int[prompt], random.Next(1, Math.Min(200, blocks * 128 - prompt) + 1), SamplingSettings.Greedy, new HashSet<int>()));
                    scheduler.Enqueue(sequences[^1]);
                }
                if (sequences.Count > 0 && random.Next(12) == 0) sequences[random.Next(sequences.Count)].Cancel();
                var planned = scheduler.Plan(batch); // An over-committed cache would have no block left to allocate.
                Assert.Equal(planned, batch.TokenCount > 0);
                Assert.True(planned || scheduler.IsIdle, $"seed {seed}: there are requests, and nothing is computed");
                var held = scheduler.All.SelectMany(static s => s.BlockTable).ToList();
                Assert.Equal(held.Count, held.Distinct().Count());
                Assert.Equal(blocks - held.Count, cache.FreeBlockCount);
                Assert.InRange(scheduler.All.Where(static s => s.BlockTable.Count > 0).Sum(static s => s.ReservedBlocks), 0, blocks);
                Compute(scheduler, random);
            }
            Assert.Equal(blocks, cache.FreeBlockCount);
            Assert.All(sequences, static s => Assert.True(s.Output.Completion.IsCompleted || s.Output.Count > 0));
        }
    }

    [Fact]
    public void TwoRequestsThatDoNotFitTogether_RunOneAfterTheOther_AndASmallOnePasses()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 16, 512);
        var batch = new StepBatch();
        var (first, second, small) = (Request(300, 20), Request(200, 60), Request(10, 10));
        foreach (var sequence in new[] { first, second, small }) scheduler.Enqueue(sequence);
        Assert.True(scheduler.Plan(batch));
        Assert.Equal([small, first], scheduler.Step.Select(static s => s.Sequence));
        Compute(scheduler, null);
        while (scheduler.All.Contains(first))
        {
            Assert.True(scheduler.Plan(batch));
            Assert.DoesNotContain(second, scheduler.Step.Select(static s => s.Sequence));
            Compute(scheduler, null);
        }
        Assert.Equal(20, first.GeneratedCount);
        Assert.True(scheduler.Plan(batch));
        Assert.Equal([second], scheduler.Step.Select(static s => s.Sequence));
    }

    [Fact]
    public void ALargeRequest_IsNotPassedForEver()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 16, 512);
        var batch = new StepBatch();
        var large = Request(400, 100);
        scheduler.Enqueue(Request(10, 10));
        scheduler.Plan(batch);
        scheduler.Enqueue(large);
        for (var step = 0; large.IsPrefill; step++)
        {
            Assert.InRange(step, 0, 2000);
            scheduler.Enqueue(Request(10, 10));
            if (scheduler.Plan(batch)) Compute(scheduler, null);
        }
    }

    [Theory]
    [InlineData(128)]
    [InlineData(512)]
    public void AShortPrompt_DoesNotWaitForALongOne_AndTheLongOneArrivesToo(int chunk)
    {
        using var cache = Cache(64);
        var scheduler = new Scheduler(cache, 16, chunk);
        var batch = new StepBatch();
        var document = Request(6000, 10);
        scheduler.Enqueue(document);
        Assert.True(scheduler.Plan(batch));
        Compute(scheduler, null);
        for (var step = 0; document.IsPrefill; step++)
        {
            Assert.InRange(step, 0, 200);
            var question = Request(100, 1);
            scheduler.Enqueue(question);
            for (var wait = 0; question.GeneratedCount == 0; wait++)
            {
                Assert.InRange(wait, 0, 2);
                Assert.True(scheduler.Plan(batch));
                Assert.InRange(batch.TokenCount, 1, chunk + 16);
                Compute(scheduler, null);
            }
        }
    }

    [Fact]
    public void WaitingRequest_CanBeCancelled()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 1, 512);
        var batch = new StepBatch();
        var (first, second, third) = (Request(10, 2), Request(10, 2), Request(10, 2));
        foreach (var sequence in new[] { first, second, third }) scheduler.Enqueue(sequence);
        second.Cancel();
        for (var step = 0; !scheduler.IsIdle; step++)
        {
            Assert.InRange(step, 0, 20);
            if (scheduler.Plan(batch)) Compute(scheduler, null);
        }
        Assert.Equal([2, 0, 2], new[] { first, second, third }.Select(static s => s.GeneratedCount));
        Assert.True(second.Output.Completion.IsCompleted);
    }

    [Fact]
    public void Chunks_StartAtBlocksAndFillTheBudget()
    {
        using var cache = Cache(40);
        var scheduler = new Scheduler(cache, 16, 512);
        var batch = new StepBatch();
        int[] prompts = [300, 700, 100, 1000];
        foreach (var prompt in prompts) scheduler.Enqueue(Request(prompt, 3));
        for (var step = 0; scheduler.All.Any(static s => s.IsPrefill); step++)
        {
            Assert.InRange(step, 0, 20);
            Assert.True(scheduler.Plan(batch));
            var prefill = scheduler.Step.Where(static s => s.Sequence.IsPrefill).ToList();
            Assert.InRange(prefill.Sum(static s => s.TokenCount), 1, 512);
            Assert.All(prefill, static s => Assert.Equal(0, s.Sequence.Computed % KvBlockLayout.BlockSize));
            // Every decoding sequence has its token in every step, however much prefill there is.
            Assert.Equal(scheduler.All.Count(static s => !s.IsPrefill), scheduler.Step.Count(static s => !s.Sequence.IsPrefill));
            Compute(scheduler, null);
        }
    }

    [Fact]
    public void Scoring_TakesOneBlockAStep()
    {
        using var cache = Cache(10);
        var scheduler = new Scheduler(cache, 16, 512);
        var batch = new StepBatch();
        scheduler.Enqueue(Sequence.ForScoring(new int[300], static (_, _) => { }, SparseLimits.Dense));
        foreach (var count in new[] { 128, 128, 44 })
        {
            Assert.True(scheduler.Plan(batch));
            Assert.Equal(count, batch.LogitRows.Count);
            Compute(scheduler, null);
        }
        Assert.True(scheduler.IsIdle);
    }

    private static KvCache Cache(int blocks) => new(new KvBlockLayout(KvElementType.BFloat16, 1, 2), 1, blocks);

    private static Sequence Request(int prompt, int maxTokens) => new(new int[prompt], maxTokens, SamplingSettings.Greedy, new HashSet<int>());

    /// <summary>What the engine does after a step; with <paramref name="random"/>, some answers stop early and some steps fail.</summary>
    private static void Compute(Scheduler scheduler, Random? random)
    {
        foreach (var (sequence, count) in scheduler.Step.ToArray())
        {
            if (random?.Next(60) == 0)
            {
                scheduler.Finish(sequence, new IOException());
                continue;
            }
            sequence.Computed += count;
            if (sequence.IsPrefill) continue;
            if (sequence.OnLogits is null) sequence.Tokens.Add(0);
            if (sequence.OnLogits is not null || sequence.GeneratedCount >= sequence.MaxTokens || random?.Next(50) == 0) scheduler.Finish(sequence);
        }
    }
}
