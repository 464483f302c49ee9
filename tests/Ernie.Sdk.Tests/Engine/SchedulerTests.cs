using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The scheduler over a small cache, with a stand-in for the model.</summary>
public sealed class SchedulerTests
{
    private static readonly SparseLimits s_sparse = new(1, 2, 256, 1, 2, 300);

    [Fact]
    public void WhateverRunsBesideARequest_ItsAnswerIsTheSame()
    {
        var preemptions = 0L;
        var cached = 0;
        for (var seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            var blocks = random.Next(4, 24);
            using var cache = Cache(blocks, random.Next(3) == 0 ? 0 : random.Next(blocks + 1));
            var scheduler = new Scheduler(cache, random.Next(1, 8), new ChunkBudget(128 * random.Next(1, 5)));
            var batch = new StepBatch();
            var steps = new SimulatedSteps(cache);
            var beginning = Prompt(random, blocks * 128);
            var sequences = new List<Sequence>();
            for (var step = 0; step < 300 || !scheduler.IsIdle; step++)
            {
                Assert.InRange(step, 0, 60_000);
                if (step < 300 && random.Next(5) == 0)
                {
                    var length = random.Next(1, blocks * 128);
                    // Some prompts begin alike.
                    var prompt = Prompt(random, length);
                    if (random.Next(2) == 0) beginning.AsSpan(0, random.Next(length)).CopyTo(prompt);
                    sequences.Add(random.Next(8) == 0
                        ? Sequence.ForScoring(prompt, static (_, _) => { }, SparseLimits.Dense)
                        : Request(prompt, random.Next(1, Math.Min(300, blocks * 128 - length) + 1), random.Next(2) == 0 ? s_sparse : SparseLimits.Dense));
                    scheduler.Enqueue(sequences[^1]);
                }
                if (sequences.Count > 0 && random.Next(20) == 0) sequences[random.Next(sequences.Count)].Cancel();
                var planned = scheduler.Plan(batch);
                Assert.Equal(planned, batch.TokenCount > 0);
                Assert.True(planned || scheduler.IsIdle, $"seed {seed}: there are requests, and nothing is computed");
                CheckBlocks(scheduler, cache);
                if (random.Next(30) == 0 && scheduler.Step.Count > 0) scheduler.Finish(scheduler.Step[0].Sequence, new IOException());
                else steps.Compute(scheduler);
            }
            Assert.Equal(blocks, cache.FreeBlockCount);
            foreach (var sequence in sequences.Where(static s => s.OnLogits is null && s.Context.Tokens.Count > 0))
            {
                var wanted = Alone(sequence);
                Assert.Equal(wanted.Take(sequence.GeneratedCount), sequence.Context.Tokens.Skip(sequence.PromptLength));
                Assert.True(sequence.Ended.IsCompleted);
            }
            preemptions += scheduler.Preemptions;
            cached += sequences.Sum(static s => Math.Max(0, s.CachedTokens));
        }
        // The cases that this test is about did happen.
        Assert.True(preemptions > 40, $"{preemptions} preemptions");
        Assert.True(cached > 10_000, $"{cached} cached tokens");
    }

    [Fact]
    public void Conversations_ForkedAndCut_GoOnAsTheyWouldHaveAlone()
    {
        for (var seed = 0; seed < 150; seed++)
        {
            var random = new Random(seed);
            var blocks = random.Next(6, 30);
            using var cache = Cache(blocks, random.Next(blocks + 1));
            var scheduler = new Scheduler(cache, 4, new ChunkBudget(256));
            var batch = new StepBatch();
            var steps = new SimulatedSteps(cache);
            // Each conversation with the history that gives it its tokens: the same turns in a cache of its own.
            var conversations = new List<(TokenContext Context, List<Turn> History)> { (new TokenContext(), []) };
            for (var round = 0; round < 40; round++)
            {
                var index = random.Next(conversations.Count);
                var (context, history) = conversations[index];
                switch (random.Next(4))
                {
                    case 0 when conversations.Count < 6:
                        conversations.Add((scheduler.Fork(context), [.. history]));
                        break;
                    case 1 when context.Tokens.Count > 1:
                        var count = random.Next(1, context.Tokens.Count);
                        scheduler.Cut(context, count);
                        history.Add(new Turn([], 0, default, count));
                        break;
                    default:
                        var room = blocks * 128 - 1 - context.Tokens.Count;
                        if (room < 2) break;
                        var turn = new Turn(Prompt(random, random.Next(1, Math.Min(room, 400))), 0, random.Next(2) == 0 ? s_sparse : SparseLimits.Dense, -1);
                        turn = turn with { MaxTokens = random.Next(1, Math.Min(200, room + 1 - turn.Prompt.Length) + 1) };
                        var sequence = new Sequence(context, turn.Prompt, turn.MaxTokens, SamplingSettings.Greedy, new HashSet<int>(), turn.Limits) { KeepsContext = true };
                        scheduler.Enqueue(sequence);
                        // Another request wants memory meanwhile.
                        if (random.Next(2) == 0) scheduler.Enqueue(Request(Prompt(random, random.Next(1, blocks * 100)), 20, SparseLimits.Dense));
                        history.Add(turn);
                        for (var step = 0; !scheduler.IsIdle; step++)
                        {
                            Assert.InRange(step, 0, 20_000);
                            Assert.True(scheduler.Plan(batch));
                            steps.Compute(scheduler);
                        }
                        break;
                }
                Assert.Equal(Replay(history), conversations[index].Context.Tokens);
            }
            foreach (var (context, _) in conversations) scheduler.Release(context);
            Assert.Equal(blocks, cache.FreeBlockCount);
        }
    }

    [Fact]
    public void TurnsThatHoldTheWholeCacheBetweenThem_DoNotWaitForOneAnother()
    {
        for (var seed = 0; seed < 60; seed++)
        {
            var random = new Random(seed);
            var blocks = random.Next(4, 16);
            using var cache = Cache(blocks, random.Next(blocks + 1));
            var scheduler = new Scheduler(cache, random.Next(1, 8), new ChunkBudget(256));
            var batch = new StepBatch();
            var steps = new SimulatedSteps(cache);
            var conversations = Enumerable.Range(0, random.Next(2, 8)).Select(static _ => (Context: new TokenContext(), History: new List<Turn>())).ToArray();
            for (var round = 0; round < 3; round++)
            {
                foreach (var (context, history) in conversations)
                {
                    var turn = new Turn(Prompt(random, random.Next(1, blocks * 30)), random.Next(1, 30), random.Next(2) == 0 ? s_sparse : SparseLimits.Dense, -1);
                    scheduler.Enqueue(new Sequence(context, turn.Prompt, turn.MaxTokens, SamplingSettings.Greedy, new HashSet<int>(), turn.Limits) { KeepsContext = true });
                    history.Add(turn);
                }
                for (var step = 0; !scheduler.IsIdle; step++)
                {
                    Assert.InRange(step, 0, 20_000);
                    Assert.True(scheduler.Plan(batch), $"seed {seed}: there are requests, and nothing is computed");
                    steps.Compute(scheduler);
                }
                Assert.All(conversations, c => Assert.Equal(Replay(c.History), c.Context.Tokens));
            }
            foreach (var (context, _) in conversations) scheduler.Release(context);
            Assert.Equal(blocks, cache.FreeBlockCount);
        }
    }

    [Fact]
    public void AnswersThatOutgrowTheCache_TakeTurns()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 16, new ChunkBudget(512));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        // Together they need five blocks of four.
        var (first, second) = (Request(Prompt(new Random(1), 200), 100), Request(Prompt(new Random(2), 120), 150));
        scheduler.Enqueue(first);
        scheduler.Enqueue(second);
        for (var step = 0; !scheduler.IsIdle; step++)
        {
            Assert.InRange(step, 0, 1000);
            Assert.True(scheduler.Plan(batch));
            steps.Compute(scheduler);
        }
        Assert.Equal(0, first.Preemptions);
        Assert.InRange(second.Preemptions, 1, 3);
        Assert.Equal(Alone(second), second.Context.Tokens.Skip(120));
        Assert.Equal(100, first.GeneratedCount);
    }

    [Fact]
    public void ALargeRequest_IsNotPassedForEver()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 16, new ChunkBudget(512));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        var large = Request(new int[500], 5);
        scheduler.Enqueue(Request(new int[10], 10));
        scheduler.Plan(batch);
        scheduler.Enqueue(large);
        for (var step = 0; large.IsPrefill; step++)
        {
            Assert.InRange(step, 0, 2000);
            scheduler.Enqueue(Request(new int[10], 10));
            if (scheduler.Plan(batch)) steps.Compute(scheduler);
        }
    }

    [Theory]
    [InlineData(128)]
    [InlineData(512)]
    public void AShortPrompt_DoesNotWaitForALongOne_AndTheLongOneArrivesToo(int chunk)
    {
        using var cache = Cache(64);
        var scheduler = new Scheduler(cache, 16, new ChunkBudget(chunk));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        var document = Request(new int[6000], 10);
        scheduler.Enqueue(document);
        Assert.True(scheduler.Plan(batch));
        steps.Compute(scheduler);
        for (var step = 0; document.IsPrefill; step++)
        {
            Assert.InRange(step, 0, 200);
            var question = Request(Prompt(new Random(step), 100), 1);
            scheduler.Enqueue(question);
            for (var wait = 0; question.GeneratedCount == 0; wait++)
            {
                Assert.InRange(wait, 0, 2);
                Assert.True(scheduler.Plan(batch));
                Assert.InRange(batch.TokenCount, 1, chunk + 16);
                steps.Compute(scheduler);
            }
        }
    }

    [Fact]
    public void WaitingRequest_CanBeCancelled()
    {
        using var cache = Cache(4);
        var scheduler = new Scheduler(cache, 1, new ChunkBudget(512));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        var (first, second, third) = (Request(new int[10], 2), Request(new int[10], 2), Request(new int[10], 2));
        foreach (var sequence in new[] { first, second, third }) scheduler.Enqueue(sequence);
        second.Cancel();
        for (var step = 0; !scheduler.IsIdle; step++)
        {
            Assert.InRange(step, 0, 20);
            if (scheduler.Plan(batch)) steps.Compute(scheduler);
        }
        Assert.Equal([2, 0, 2], new[] { first, second, third }.Select(static s => s.GeneratedCount));
        Assert.True(second.Output.Completion.IsCompleted);
    }

    [Fact]
    public void Chunks_EndAtBlocksAndFillTheBudget()
    {
        using var cache = Cache(40);
        var scheduler = new Scheduler(cache, 16, new ChunkBudget(512));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        int[] prompts = [300, 700, 100, 1000];
        for (var i = 0; i < prompts.Length; i++) scheduler.Enqueue(Request(Prompt(new Random(i), prompts[i]), 3));
        for (var step = 0; scheduler.All.Any(static s => s.IsPrefill); step++)
        {
            Assert.InRange(step, 0, 30);
            Assert.True(scheduler.Plan(batch));
            var prefill = scheduler.Step.Where(static s => !s.IsDecode).ToList();
            Assert.InRange(prefill.Sum(static s => s.TokenCount), 1, scheduler.Step.Any(static s => s.IsDecode) ? 128 : 512);
            Assert.All(prefill, static s => Assert.Equal(0, s.Sequence.Context.Computed % KvBlockLayout.BlockSize));
            // Every decoding sequence has its token in every step, however much prefill there is.
            Assert.Equal(scheduler.All.Count(static s => !s.IsPrefill), scheduler.Step.Count(static s => s.IsDecode));
            steps.Compute(scheduler);
        }
    }

    [Fact]
    public void Scoring_TakesOneBlockAStep()
    {
        using var cache = Cache(10);
        var scheduler = new Scheduler(cache, 16, new ChunkBudget(512));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        scheduler.Enqueue(Sequence.ForScoring(new int[300], static (_, _) => { }, SparseLimits.Dense));
        foreach (var count in new[] { 128, 128, 44 })
        {
            Assert.True(scheduler.Plan(batch));
            Assert.Equal(count, batch.LogitRows.Count);
            steps.Compute(scheduler);
        }
        Assert.True(scheduler.IsIdle);
    }

    [Fact]
    public void ChunkBudget_FollowsTheTimeOfADecodeStep()
    {
        var budget = new ChunkBudget(2048);
        Assert.Equal(2048, budget.Tokens(0));
        Assert.Equal(128, budget.Tokens(1));
        budget.Observe(1, 0, TimeSpan.FromMilliseconds(100));
        budget.Observe(0, 512, TimeSpan.FromMilliseconds(51.2)); // 0.1 ms a token: 1.5 decode steps are 1,500 tokens
        Assert.Equal(1408, budget.Tokens(1));
        for (var i = 0; i < 100; i++) budget.Observe(1, 128, TimeSpan.FromMilliseconds(100 + 1280)); // 10 ms a token: less than a block
        Assert.Equal(128, budget.Tokens(1));
        for (var i = 0; i < 100; i++) budget.Observe(1, 128, TimeSpan.FromMilliseconds(100.1));
        Assert.Equal(2048, budget.Tokens(1));
    }

    private sealed record Turn(int[] Prompt, int MaxTokens, SparseLimits Limits, int Cut);

    private static KvCache Cache(int blocks, int? idle = null) => new(new KvBlockLayout(KvElementType.BFloat16, 1, 2), 1, blocks) { IdleLimit = idle ?? blocks };

    private static int[] Prompt(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => random.Next(1000))];

    private static Sequence Request(int[] prompt, int maxTokens, SparseLimits limits = default) => new(new TokenContext(), prompt, maxTokens, SamplingSettings.Greedy, new HashSet<int>(), limits);

    /// <summary>What a request answers in a cache of its own.</summary>
    private static List<int> Alone(Sequence sequence) =>
        [.. Replay([new Turn([.. sequence.Context.Tokens.Take(sequence.PromptLength)], sequence.MaxTokens, sequence.Limits, -1)]).Skip(sequence.PromptLength)];

    private static List<int> Replay(List<Turn> turns)
    {
        using var cache = Cache(64, 0);
        var scheduler = new Scheduler(cache, 1, new ChunkBudget(128));
        var batch = new StepBatch();
        var steps = new SimulatedSteps(cache);
        var context = new TokenContext();
        foreach (var turn in turns)
        {
            if (turn.Cut >= 0) scheduler.Cut(context, turn.Cut);
            else scheduler.Enqueue(new Sequence(context, turn.Prompt, turn.MaxTokens, SamplingSettings.Greedy, new HashSet<int>(), turn.Limits) { KeepsContext = true });
            while (scheduler.Plan(batch)) steps.Compute(scheduler);
        }
        return context.Tokens;
    }

    /// <summary>Whoever shares a block has the same tokens up to it.</summary>
    private static void CheckBlocks(Scheduler scheduler, KvCache cache)
    {
        var held = new Dictionary<int, (TokenContext Context, int Index)>();
        foreach (var context in scheduler.All.Select(static s => s.Context))
        {
            for (var b = 0; b < context.BlockTable.Count; b++)
            {
                if (!held.TryAdd(context.BlockTable[b], (context, b)))
                {
                    var (other, index) = held[context.BlockTable[b]];
                    Assert.Equal(index, b);
                    Assert.Equal(other.Tokens.Take((b + 1) * 128), context.Tokens.Take((b + 1) * 128));
                }
            }
        }
        Assert.Equal(cache.BlockCount - held.Count, cache.FreeBlockCount);
    }
}
