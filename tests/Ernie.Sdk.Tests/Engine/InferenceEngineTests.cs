using System.Diagnostics;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The engine's thread over a small random model: what it does with cancelled, failing and waiting requests.</summary>
public sealed class InferenceEngineTests
{
    private static readonly CancellationToken s_none = CancellationToken.None;

    [Fact]
    public async Task Blocks_AreFreeAfterAnswersAndCancels()
    {
        using var model = Model();
        using var engine = Engine(model.Runner);
        var random = new Random(1);
        var sequences = Enumerable.Range(0, 20).Select(i => Request(model, i, random.Next(1, 400), 1 + i)).ToList();
        sequences.ForEach(engine.Submit);
        var readers = sequences.Select(async (sequence, i) =>
        {
            var count = 0;
            await foreach (var _ in sequence.Output.ReadAllAsync(s_none))
            {
                if (++count == 3 && i % 3 == 0) engine.Cancel(sequence);
            }
            return count;
        }).ToList();
        for (var i = 1; i < sequences.Count; i += 7) engine.Cancel(sequences[i]);
        var counts = await Task.WhenAll(readers);
        for (var i = 0; i < counts.Length; i++)
        {
            if (i % 3 != 0 && i % 7 != 1) Assert.Equal(1 + i, counts[i]);
        }
        await AllFree(model.Runner.Cache);
    }

    [Fact]
    public async Task RequestsThatDoNotFitTogether_AllEnd()
    {
        using var model = Model(blocks: 3);
        var alone = Enumerable.Range(0, 4).Select(i => model.Greedy(SmallModels.Ids(model, i, 200), 30)).ToArray();
        using var engine = Engine(model.Runner);
        // Each takes two of three blocks.
        var sequences = Enumerable.Range(0, 4).Select(i => Request(model, i, 200, 30)).ToList();
        sequences.ForEach(engine.Submit);
        for (var i = 0; i < sequences.Count; i++) Assert.Equal(alone[i], await Tokens(sequences[i]));
        await AllFree(model.Runner.Cache);
    }

    [Fact]
    public async Task FailingStep_FailsItsRequestsAndNoOther()
    {
        var fails = false;
        using var exported = Model();
        using var model = exported.Again(blocks: 16, kernels: new HookedKernels(KernelRegistry.Choose(), _ =>
        {
            if (Volatile.Read(ref fails)) throw new IOException("the disk is gone");
        }));
        using var engine = Engine(model.Runner);
        var before = Request(model, 1, 150, 5);
        engine.Submit(before);
        var tokens = await Tokens(before);

        Volatile.Write(ref fails, true);
        var failing = Request(model, 2, 150, 5);
        engine.Submit(failing);
        var error = await Assert.ThrowsAnyAsync<Exception>(() => Tokens(failing));
        Assert.Contains("the disk is gone", error.ToString());
        await AllFree(model.Runner.Cache);

        Volatile.Write(ref fails, false);
        var after = Request(model, 1, 150, 5);
        engine.Submit(after);
        Assert.Equal(tokens, await Tokens(after));
        await AllFree(model.Runner.Cache);
    }

    [Fact]
    public async Task FailingCallback_FailsItsRequestOnly()
    {
        using var model = Model();
        using var engine = Engine(model.Runner);
        var scored = Sequence.ForScoring(SmallModels.Ids(model, 1, 300), static (position, _) => throw new IOException($"at {position}"), SparseLimits.Dense);
        var other = Request(model, 2, 100, 8);
        engine.Submit(scored);
        engine.Submit(other);
        Assert.Equal("at 0", (await Assert.ThrowsAsync<IOException>(() => Tokens(scored))).Message);
        Assert.Equal(8, (await Tokens(other)).Length);
        await AllFree(model.Runner.Cache);
    }

    [Fact]
    public async Task FailingConstraint_FailsItsRequestOnly()
    {
        using var model = Model();
        using var engine = Engine(model.Runner);
        var constrained = Request(model, 1, 100, 8, new OneTokenThenFailure(5));
        var others = Enumerable.Range(2, 4).Select(seed => Request(model, seed, 100, 8)).ToList();
        engine.Submit(constrained);
        others.ForEach(engine.Submit);
        Assert.Equal(5, (await constrained.Output.ReadAsync(s_none)).Id);
        Assert.Equal("no more", (await Assert.ThrowsAsync<IOException>(() => Tokens(constrained))).Message);
        foreach (var other in others) Assert.Equal(8, (await Tokens(other)).Length);
        await AllFree(model.Runner.Cache);
    }

    [Theory]
    [InlineData(16, 4, "4 requests wait already")]
    [InlineData(2, 1, "1 request waits already")]
    [InlineData(2, 0, "MaxQueuedRequests lets none wait")]
    public async Task AnIdleEngine_TakesWhatItComputesAndWhatMayWait(int concurrent, int queued, string refusal)
    {
        using var gate = new ManualResetEventSlim();
        using var exported = Model();
        using var model = exported.Again(blocks: 2 * concurrent, kernels: new HookedKernels(KernelRegistry.Choose(), _ => gate.Wait(s_none)));
        using var engine = Engine(model.Runner, concurrent, queued);
        var sequences = Enumerable.Range(0, concurrent + queued).Select(i => Request(model, i, 20, 2)).ToList();
        sequences.ForEach(engine.Submit);
        var refused = Assert.Throws<ErnieQueueFullException>(() => engine.Submit(Request(model, 99, 20, 2)));
        Assert.Equal(queued, refused.WaitingRequests);
        Assert.Contains(refusal, refused.Message, StringComparison.Ordinal);
        // Whoever has been cancelled has left, and leaves once.
        engine.Cancel(sequences[^1]);
        engine.Cancel(sequences[^1]);
        sequences[^1] = Request(model, 100, 20, 2);
        engine.Submit(sequences[^1]);
        Assert.Throws<ErnieQueueFullException>(() => engine.Submit(Request(model, 99, 20, 2)));
        gate.Set();
        foreach (var sequence in sequences) Assert.Equal(2, (await Tokens(sequence)).Length);
        // The last token of an answer is enough to ask again, time after time.
        for (var i = 0; i < 200; i++)
        {
            var batch = Enumerable.Range(0, concurrent + queued).Select(seed => Request(model, seed, 3, 1)).ToList();
            batch.ForEach(engine.Submit);
            foreach (var sequence in batch) Assert.NotNull((await sequence.Output.ReadAsync(s_none)).Finish);
        }
    }

    [Fact]
    public async Task RequestsThatWaitForMemory_CountAsWaiting()
    {
        using var gate = new ManualResetEventSlim();
        using var exported = Model();
        using var model = exported.Again(blocks: 3, kernels: new HookedKernels(KernelRegistry.Choose(), _ => gate.Wait(s_none)));
        using var engine = Engine(model.Runner, concurrent: 16, queued: 2);
        // Each takes two of three blocks: one runs, and beside it the queue is full.
        var sequences = Enumerable.Range(0, 3).Select(i => Request(model, i, 200, 50)).ToList();
        sequences.ForEach(engine.Submit);
        // After the next plan, which has seen all of them.
        var fourth = engine.Invoke((_, _) => engine.Invoke((_, _) => Record.Exception(() => engine.Submit(Request(model, 3, 20, 2)))));
        gate.Set();
        Assert.Equal(2, Assert.IsType<ErnieQueueFullException>(await await fourth).WaitingRequests);
        foreach (var sequence in sequences) Assert.Equal(50, (await Tokens(sequence)).Length);
    }

    [Fact]
    public async Task CancelDuringAStep_BreaksItOff()
    {
        using var entered = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        var calls = 0;
        using var exported = Model();
        using var model = exported.Again(blocks: 16, kernels: new HookedKernels(KernelRegistry.Choose(), _ =>
        {
            if (Interlocked.Increment(ref calls) != 1) return;
            entered.Set();
            release.Wait();
        }));
        using var engine = Engine(model.Runner);
        var sequence = Request(model, 1, 300, 5);
        engine.Submit(sequence);
        Assert.True(entered.Wait(TimeSpan.FromSeconds(30), s_none));
        engine.Cancel(sequence);
        release.Set();
        Assert.Empty(await Tokens(sequence));
        await AllFree(model.Runner.Cache);
        // The step's other kernels never ran.
        Assert.Equal(1, calls);
    }

    [Fact]
    public async Task Dispose_EndsRunningAndWaitingRequests()
    {
        using var model = Model(blocks: 3);
        var engine = Engine(model.Runner);
        var sequences = Enumerable.Range(0, 3).Select(i => Request(model, i, 200, 100)).ToList();
        sequences.ForEach(engine.Submit);
        Assert.True(await sequences[0].Output.WaitToReadAsync(s_none));
        engine.Dispose();
        foreach (var sequence in sequences) await Assert.ThrowsAsync<ObjectDisposedException>(() => Tokens(sequence));
        Assert.Throws<ObjectDisposedException>(() => engine.Submit(sequences[0]));
    }

    [Fact]
    public async Task PromptsThatDoNotFit_AreRefusedWithCounts()
    {
        using var model = await TinyModel.LoadAsync(static options => options.ContextLength = 300);
        Assert.Equal(300, model.ContextLength);
        ArgumentException error = await Assert.ThrowsAsync<ErnieContextOverflowException>(() => model.GenerateAsync(new int[300], cancellationToken: s_none).ToListAsync(s_none).AsTask());
        Assert.Contains("300 tokens", error.Message);
        Assert.Contains("at most 299", error.Message);
        error = await Assert.ThrowsAsync<ArgumentException>(() => model.ScoreAsync(new int[301], static (_, _) => { }, s_none));
        Assert.Contains("301 tokens", error.Message);
        // One token of room gives one token, whatever was asked for.
        Assert.Single(await model.GenerateAsync(new int[299], new ErnieGenerationOptions { MaxTokens = 50, IgnoreStopTokens = true }, s_none).ToListAsync(s_none));
    }

    [Fact]
    public async Task Context_IsWhatTheCacheHolds()
    {
        // 5 layers, 2 heads of 64, keys and values of 2 bytes and the summaries: 331 KB a block.
        using var model = await TinyModel.LoadAsync(static options => (options.KvCacheType, options.KvCacheBytes) = (ErnieKvCacheType.BFloat16, 2 << 20));
        Assert.InRange(model.ContextLength, 128, 1024);
        Assert.Equal(0, model.ContextLength % 128);
        var error = await Assert.ThrowsAsync<ArgumentException>(() => TinyModel.LoadAsync(static options => options.KvCacheBytes = 1000));
        Assert.Contains("1000", error.Message);
    }

    [Fact]
    public void IdleEngine_UsesNoProcessor()
    {
        using var model = Model();
        using var engine = Engine(model.Runner);
        var sequence = Request(model, 1, 50, 3);
        engine.Submit(sequence);
        Assert.Equal(3, sequence.Output.ReadAllAsync(s_none).ToBlockingEnumerable(s_none).Count());
        // Other tests run in this process: the engine's own thread is what counts, where the system tells.
        var thread = EngineThreads().ToList();
        Assert.SkipWhen(thread.Count == 0, "This system does not tell the names of threads.");
        var before = thread.ToDictionary(static path => path, ProcessorTicks);
        Thread.Sleep(1000);
        // At least one engine of this process is idle: ours. A hundredth of a second is a tick.
        Assert.Contains(thread, path => ProcessorTicks(path) - before[path] <= 1);
    }

    private static IEnumerable<string> EngineThreads() => !Directory.Exists("/proc/self/task") ? [] :
        Directory.EnumerateDirectories("/proc/self/task").Where(static task => File.ReadAllText(Path.Combine(task, "comm")).StartsWith("ernie-engine", StringComparison.Ordinal));

    private static long ProcessorTicks(string task)
    {
        var stat = Path.Combine(task, "stat");
        if (!File.Exists(stat)) return long.MaxValue / 2;
        var fields = File.ReadAllText(stat).Split(' ');
        return long.Parse(fields[13], System.Globalization.CultureInfo.InvariantCulture) + long.Parse(fields[14], System.Globalization.CultureInfo.InvariantCulture);
    }

    private static LoadedRunner Model(int blocks = 16) => new(new SyntheticWeights(SmallModels.Moe, 1), blocks: blocks);

    private static InferenceEngine Engine(ModelRunner runner, int concurrent = 16, int queued = 1024) => new(runner, [], concurrent, queued, 256, 2, null);

    private static Sequence Request(LoadedRunner model, int seed, int prompt, int maxTokens, TokenConstraint? constraint = null) =>
        new(new TokenContext(), SmallModels.Ids(model, seed, prompt), maxTokens, SamplingSettings.Greedy, new HashSet<int>()) { Constraint = constraint };

    private static async Task<int[]> Tokens(Sequence sequence) => [.. await sequence.Output.ReadAllAsync(s_none).Select(static token => token.Id).ToListAsync(s_none)];

    /// <summary>A reader may see the last token a moment before the engine's thread has freed the blocks.</summary>
    private static async Task AllFree(KvCache cache)
    {
        var clock = Stopwatch.StartNew();
        while (cache.FreeBlockCount < cache.BlockCount && clock.Elapsed < TimeSpan.FromSeconds(10)) await Task.Yield();
        Assert.Equal(cache.BlockCount, cache.FreeBlockCount);
    }

    private sealed class OneTokenThenFailure(int only) : TokenConstraint
    {
        private readonly ulong[] _mask = [1UL << only];
        private bool _isSpent;

        public override int TokensToEnd => 1;

        public override ReadOnlySpan<ulong> Allowed(int remaining) => _isSpent ? throw new IOException("no more") : _mask;

        public override void Advance(int token) => _isSpent = true;
    }
}
