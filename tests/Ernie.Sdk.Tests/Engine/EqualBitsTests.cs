using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>
/// Whole models: the logits of a token are the same to the last bit whatever runs beside it, however its prompt is cut, and on however many threads. Long enough for several KV blocks and two splits of the cache.
/// </summary>
public sealed class EqualBitsTests
{
    public static TheoryData<string> Models => ["moe", "moe-fp32", "dense", "tiny"];

    public static TheoryData<string, bool> ModelsAndCaches { get; } = new()
    {
        { "moe", false }, { "moe", true }, { "moe-fp32", true }, { "dense", false }, { "dense", true }, { "tiny", false }, { "tiny", true },
    };

    private static int Length(string model) => model == "tiny" ? 300 : 1170;

    private static KvElementType Cache(bool bfloat16) => bfloat16 ? KvElementType.BFloat16 : KvElementType.Float32;

    [Theory]
    [MemberData(nameof(ModelsAndCaches))]
    public void Prefill_InChunksOrTokenByToken_EqualsInOneGo(string name, bool bfloat16)
    {
        using var exported = SmallModels.Load(name);
        using var model = exported.Again(Cache(bfloat16));
        var ids = SmallModels.Ids(model, 1, Length(name));
        var whole = model.Logits(ids);
        Assert.All(whole, static value => Assert.True(float.IsFinite(value)));
        foreach (var chunks in new int[][] { [128], [256], [384, 128, 512], [1], [128, 1, 1, 1, 130, 3, 61, 1, 256], [7], [100, 1, 1000] })
        {
            TensorAssert.SameBits(whole, model.Logits(ids, chunks), $"{name}, chunks of {string.Join(", ", chunks)}");
        }
    }

    [Theory]
    [MemberData(nameof(ModelsAndCaches))]
    public void Batch_EqualsEachAlone(string name, bool bfloat16)
    {
        using var exported = SmallModels.Load(name);
        using var model = exported.Again(Cache(bfloat16));
        int[] lengths = [Length(name), 1, 129, 128, 40, 257, 3, 127];
        var texts = lengths.Select((length, i) => SmallModels.Ids(model, 10 + i, length)).ToArray();
        var alone = texts.Select(ids => model.Logits(ids)).ToArray();
        var random = new Random(5);
        TensorAssert.SameBits([.. alone.SelectMany(static logits => logits)], [.. Mixed(model, texts, random).SelectMany(static logits => logits)], name);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void ThreadCount_DoesNotChangeBits(string name)
    {
        using var model = SmallModels.Load(name);
        var ids = SmallModels.Ids(model, 2, Length(name));
        float[]? one = null;
        foreach (var threads in new[] { 1, 2, 3 })
        {
            using var runner = model.Again(KvElementType.BFloat16, threads);
            // A prefill, then decode steps deep enough for the splits of the cache to be shared out.
            var logits = runner.Logits(ids, ids.Length - 20, 1);
            TensorAssert.SameBits(one ??= logits, logits, $"{name}, {threads} threads");
        }
    }

    [Theory]
    [InlineData("moe", "avx2")]
    [InlineData("moe", "vector128")]
    [InlineData("dense", "avx2")]
    [InlineData("dense", "vector128")]
    [InlineData("tiny", "avx2")]
    [InlineData("tiny", "vector128")]
    public void KernelFamilies_GiveEqualBits(string name, string family)
    {
        var narrow = KernelFamilies.Supported(family);
        var widest = KernelRegistry.All.First(static kernels => kernels.IsSupported);
        Assert.SkipWhen(ReferenceEquals(widest, narrow), $"{family} is the widest family of this machine; there is none to compare it with.");
        using var model = SmallModels.Load(name);
        var ids = SmallModels.Ids(model, 3, Length(name));
        foreach (var cache in new[] { KvElementType.Float32, KvElementType.BFloat16 })
        {
            using var wide = model.Again(cache, kernels: widest);
            using var other = model.Again(cache, kernels: narrow);
            TensorAssert.SameBits(wide.Logits(ids, ids.Length - 30, 1), other.Logits(ids, ids.Length - 30, 1), $"{name} on {widest.Name} and {family}, {cache}");
        }
    }

    [Theory]
    [InlineData("moe", nameof(CpuKernels.Linear))]
    [InlineData("moe", nameof(CpuKernels.Attention))]
    [InlineData("moe", nameof(CpuKernels.Experts))]
    [InlineData("dense", nameof(CpuKernels.Attention))]
    public void CancelledStep_RunAgain_GivesTheSameBits(string name, string kernel)
    {
        using var model = SmallModels.Load(name);
        var ids = SmallModels.Ids(model, 4, 400);
        var whole = model.Logits(ids, 256, 143, 1);

        StepTermination? termination = null;
        var calls = 0;
        // The second call of this kernel: some layer has already written its keys and values.
        using var hooked = model.Again(kernels: new HookedKernels(KernelRegistry.Choose(), called =>
        {
            if (called == kernel && ++calls == 2) termination?.Request();
        }));
        var table = hooked.Allocate(ids.Length);
        var batch = new StepBatch();
        var result = new List<float>();
        foreach (var (start, count) in new[] { (0, 256), (256, 143), (399, 1) })
        {
            batch.Clear();
            batch.Add(ids.AsSpan(start, count), start, table, count == 1 ? SequenceFlags.Decode : SequenceFlags.None, SparseLimits.Dense, count);
            calls = 0;
            termination = new StepTermination();
            Assert.Throws<OperationCanceledException>(() => { hooked.Runner.Run(batch, termination); });
            // Asked before it starts, a step does not start.
            Assert.Throws<OperationCanceledException>(() => { hooked.Runner.Run(batch, termination); });
            termination = null;
            result.AddRange(hooked.Runner.Run(batch));
        }
        TensorAssert.SameBits(whole, [.. result], name);
    }

    [Fact]
    public async Task ConcurrentSampledRequests_EqualEachAlone()
    {
        using var model = await TinyModel.LoadAsync(static options => options.MaxConcurrentRequests = 9);
        var random = new Random(6);
        var requests = Enumerable.Range(0, 24).Select(i => (
            Prompt: Enumerable.Range(0, i % 6 == 5 ? 600 : random.Next(1, 200)).Select(_ => random.Next(300, model.VocabularySize)).ToArray(),
            Options: new ErnieGenerationOptions
            {
                Seed = i / 2, MaxTokens = random.Next(1, 60), Temperature = 0.5f + random.NextSingle(), TopP = i % 3 == 0 ? 1 : 0.9f, TopK = i % 4 == 0 ? 40 : null,
                FrequencyPenalty = i % 5 == 0 ? 0.5f : null, RepetitionPenalty = i % 7 == 0 ? 1.1f : null, IgnoreStopTokens = true,
            })).ToArray();
        async Task<int[]> Run(int i) => [.. await model.GenerateAsync(requests[i].Prompt, requests[i].Options, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken)];

        var together = await Task.WhenAll(Enumerable.Range(0, 24).Select(Run));
        for (var i = 0; i < 24; i++)
        {
            Assert.Equal(requests[i].Options.MaxTokens, together[i].Length);
            Assert.Equal(await Run(i), together[i]);
        }
    }

    /// <summary>
    /// Computes the texts in steps that mix prefill, decode and sequences that wait, in changing order, from a pool whose blocks are handed out shuffled; what was in a freed block does not matter.
    /// </summary>
    private static float[][] Mixed(LoadedRunner model, int[][] texts, Random random)
    {
        var pool = model.Allocate(model.Runner.Cache.BlockCount * KvBlockLayout.BlockSize).ToArray();
        random.Shuffle(pool);
        var next = 0;
        var tables = texts.Select(ids => pool[next..(next += KvCache.BlocksFor(ids.Length))]).ToArray();
        var done = new int[texts.Length];
        var logits = texts.Select(static _ => new List<float>()).ToArray();
        var vocabulary = model.Manifest.Config.VocabSize;
        var batch = new StepBatch();
        while (Enumerable.Range(0, texts.Length).Any(s => done[s] < texts[s].Length))
        {
            batch.Clear();
            var step = new List<(int Sequence, int Count)>();
            var order = Enumerable.Range(0, texts.Length).ToArray();
            random.Shuffle(order);
            foreach (var s in order)
            {
                var left = texts[s].Length - done[s];
                if (left == 0 || random.Next(4) == 0) continue;
                // Some decode from the middle on, others take chunks that end on a block.
                var count = done[s] > 0 && (s + done[s] / 128) % 3 == 0 ? 1 : Math.Min(left, 128 - done[s] % 128 + 128 * random.Next(3));
                batch.Add(texts[s].AsSpan(done[s], count), done[s], tables[s], count == 1 ? SequenceFlags.Decode : SequenceFlags.None, SparseLimits.Dense, count);
                step.Add((s, count));
            }
            if (step.Count == 0) continue;
            var rows = model.Runner.Run(batch);
            foreach (var (s, count) in step)
            {
                logits[s].AddRange(rows[..(count * vocabulary)]);
                rows = rows[(count * vocabulary)..];
                done[s] += count;
            }
        }
        model.Free([.. pool]);
        return [.. logits.Select(static rows => rows.ToArray())];
    }
}
