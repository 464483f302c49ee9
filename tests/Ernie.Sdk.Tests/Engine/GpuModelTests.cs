using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model on a GPU that is emulated, against the CPU: what is computed, and what the engine makes of it.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuModelTests(ITestOutputHelper output) : IDisposable
{
    /// <summary>Logits of the shipped model are of order 10. Kernels of both devices sum the same products in float, in other orders.</summary>
    private const double Tolerance = 3e-4;
    private static readonly int[] s_prompt = [1, 17, 300, 42, 9, 1200, 77];

    private readonly EmulatedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Theory]
    [InlineData(ErnieKvCacheType.Float32)]
    [InlineData(ErnieKvCacheType.BFloat16)]
    [InlineData(ErnieKvCacheType.Int8)]
    public async Task Logits_AreTheCpus(ErnieKvCacheType kvType)
    {
        await using var cpu = await TinyModel.LoadAsync(options => options.KvCacheType = kvType);
        var expected = await LoadedModels.LogitsAsync(cpu, s_prompt, Token);
        await using (var model = await Load(options => options.KvCacheType = kvType))
        {
            var logits = await LoadedModels.LogitsAsync(model, s_prompt, Token);
            output.WriteLine($"{kvType}: largest difference {Golden.MaxDifference(logits, expected):E2} of {expected.Max(Math.Abs):F1}, {_gpu.Driver.Launches} launches");
            // A key or value that falls on the edge between two numbers of its type may fall either way.
            var tolerance = kvType == ErnieKvCacheType.Float32 ? Tolerance : 0.05;
            TensorAssert.Near(expected, logits, tolerance, tolerance, "logits");
            Assert.True(_gpu.Driver.Launches > 50);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Requests_TogetherAndOneAfterAnother_AnswerAsOnTheCpu_AndShareTheirBeginnings()
    {
        var shared = LoadedModels.Ids(1, 130);
        int[][] prompts = [s_prompt, [.. shared, 5, 6], LoadedModels.Ids(2, 40)];
        await using var cpu = await TinyModel.LoadAsync();
        var expected = await Task.WhenAll(prompts.Select(prompt => Answer(cpu, prompt)));
        await using (var model = await Load())
        {
            var answers = await Task.WhenAll(prompts.Select(prompt => Answer(model, prompt)));
            Assert.Equal(expected.Select(static a => a.Tokens), answers.Select(static a => a.Tokens));
            Assert.All(answers, static answer => Assert.Equal(0, answer.Cached));
            var again = await Answer(model, prompts[1]);
            Assert.Equal(expected[1].Tokens, again.Tokens);
            Assert.Equal(128, again.Cached);
            // The routers' choices come back from the GPU: those of a token in each of its layers.
            var load = model.GetExpertLoad();
            Assert.All(load.Layers, layer => Assert.Equal(layer.TokenCount * load.ExpertsPerToken, layer.ExpertTokens.Sum()));
            Assert.Equal(4, load.Layers.Count);
            Assert.True(load.Layers[0].TokenCount >= prompts.Sum(static prompt => prompt.Length));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData(ErniePrecision.Int8, ErniePrecision.Int8)]
    [InlineData(ErniePrecision.Int4, ErniePrecision.Int4)]
    [InlineData(ErniePrecision.Int2, ErniePrecision.Int8)]
    [InlineData(ErniePrecision.Int2, ErniePrecision.Int4)]
    public async Task QuantisedWeights_GiveTheCpusLogits(ErniePrecision experts, ErniePrecision dense)
    {
        using var folder = new TemporaryFolder();
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), new ErnieExportOptions { Experts = experts, Dense = dense, Calibrate = experts == ErniePrecision.Int2 }, cancellationToken: Token);
        var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 8 << 20, Threads = 2 };
        await using var cpu = await ErnieModel.LoadAsync(folder.File("model"), options, cancellationToken: Token);
        (options.Device, options.Installation) = (ErnieDevice.Cuda, _gpu.Installation);
        await using (var model = await ErnieModel.LoadAsync(folder.File("model"), options, cancellationToken: Token))
        {
            var (expected, logits) = (await LoadedModels.LogitsAsync(cpu, s_prompt, Token), await LoadedModels.LogitsAsync(model, s_prompt, Token));
            output.WriteLine($"{experts} and {dense}: largest difference {Golden.MaxDifference(logits, expected):E2} of {expected.Max(Math.Abs):F1}");
            // Activations are quantised too, and one on the edge between two codes may fall either way: of int8 the CPU's own kernels differ by 0.16 here.
            TensorAssert.Near(expected, logits, 0.3, 0, "logits");
            foreach (var prompt in new[] { s_prompt, LoadedModels.Ids(9, 60) }) await AssertAnswersAlike(cpu, prompt, (await Answer(cpu, prompt)).Tokens, (await Answer(model, prompt)).Tokens, 0.3);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>Where answers part, the CPU must rate both tokens alike but for <paramref name="tie"/>; what follows answers another text.</summary>
    private static async Task AssertAnswersAlike(ErnieModel cpu, int[] prompt, IReadOnlyList<int> wanted, IReadOnlyList<int> given, double tie)
    {
        Assert.Equal(wanted.Count, given.Count);
        var same = wanted.Zip(given).TakeWhile(static pair => pair.First == pair.Second).Count();
        if (same == wanted.Count) return;
        var logits = (await LoadedModels.LogitsAsync(cpu, [.. prompt, .. wanted.Take(same)], Token))[^cpu.VocabularySize..];
        Assert.InRange(logits[wanted[same]] - logits[given[same]], 0, tie);
    }

    [Fact]
    public async Task APublishedTwoBitCheckpoint_GivesTheCpusLogits()
    {
        using var folder = new TemporaryFolder();
        // WINT8, WINT4 and WINT2 in one model, as they are.
        new TwoBitsCheckpoint().Write(folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), cancellationToken: Token);
        var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 8 << 20, Threads = 2 };
        await using var cpu = await ErnieModel.LoadAsync(folder.File("model"), options, cancellationToken: Token);
        (options.Device, options.Installation) = (ErnieDevice.Cuda, _gpu.Installation);
        await using (var model = await ErnieModel.LoadAsync(folder.File("model"), options, cancellationToken: Token))
        {
            int[] prompt = [3, 17, 60, 42, 9, 12, 33];
            var (expected, logits) = (await LoadedModels.LogitsAsync(cpu, prompt, Token), await LoadedModels.LogitsAsync(model, prompt, Token));
            output.WriteLine($"largest difference {Golden.MaxDifference(logits, expected):E2} of {expected.Max(Math.Abs):F1}");
            TensorAssert.Near(expected, logits, 0.3, 0, "logits");
            Assert.Equal((await Answer(cpu, prompt)).Tokens, (await Answer(model, prompt)).Tokens);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task LearnedGates_ChooseTheBlocksThatTheCpuChooses()
    {
        using var folder = new TemporaryFolder();
        var (plain, gated) = (await TinyModel.ExportedAsync(), folder.File("model"));
        Directory.CreateDirectory(folder.File("checkpoint"));
        foreach (var file in Directory.EnumerateFiles(TinyModel.Checkpoint)) File.Copy(file, Path.Combine(folder.File("checkpoint"), Path.GetFileName(file)));
        // Of both signs: nothing like a mean.
        SafetensorsWriter.Write(Path.Combine(folder.File("checkpoint"), AttentionGates.FileName),
            [.. Enumerable.Range(0, 4).Select(static layer => EncodedTensor.Of($"ernie.layers.{layer}.self_attn.attn_gate.weight", StoredType.BFloat16, [2, 128, 64], RandomTensor.Floats(new Random(layer), 2 * 128 * 64, 1)))]);
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), gated, ExportAs.BFloat16, cancellationToken: Token);
        var prompt = LoadedModels.Ids(6, 520);
        ErnieModelOptions Sparse(ErnieDevice device) => new()
        {
            Device = device, Installation = _gpu.Installation, KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 8 << 20, PrefillChunkTokens = 128, Threads = 2,
            SparseAttention = new ErnieSparseAttention { EncoderTopKLeft = 1, EncoderTopKRight = 1, DecoderTopKLeft = 1, DecoderTopKRight = 2 },
        };
        await using var means = await ErnieModel.LoadAsync(plain, Sparse(ErnieDevice.Cpu), cancellationToken: Token);
        await using var cpu = await ErnieModel.LoadAsync(gated, Sparse(ErnieDevice.Cpu), cancellationToken: Token);
        var expected = await LoadedModels.LogitsAsync(cpu, prompt, Token);
        var gates = Golden.MaxDifference(await LoadedModels.LogitsAsync(means, prompt, Token), expected);
        Assert.True(gates > 0.1, $"Gates change logits by {gates:E1} only.");
        await using (var model = await ErnieModel.LoadAsync(gated, Sparse(ErnieDevice.Cuda), cancellationToken: Token))
        {
            var logits = await LoadedModels.LogitsAsync(model, prompt, Token);
            output.WriteLine($"largest difference {Golden.MaxDifference(logits, expected):E2}; of means instead of gates {gates:E2}");
            TensorAssert.Near(expected, logits, Tolerance, Tolerance, "logits");
            Assert.Equal((await Answer(cpu, prompt)).Tokens, (await Answer(model, prompt)).Tokens);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task LongPrompts_ReadTheBlocksThatTheCpuReads()
    {
        var prompt = LoadedModels.Ids(6, 300);
        void Sparse(ErnieModelOptions options) => options.SparseAttention = new ErnieSparseAttention { EncoderTopKLeft = 1, EncoderTopKRight = 2, DecoderTopKLeft = 1, DecoderTopKRight = 2 };
        await using var dense = await TinyModel.LoadAsync(static options => options.SparseAttention = ErnieSparseAttention.Dense);
        await using var cpu = await TinyModel.LoadAsync(Sparse);
        var (all, expected) = (await LoadedModels.LogitsAsync(dense, prompt, Token), await LoadedModels.LogitsAsync(cpu, prompt, Token));
        Assert.True(Golden.MaxDifference(all, expected) > 0.1);
        // In chunks, of which all but the last have no logits.
        await using var model = await Load(options =>
        {
            Sparse(options);
            options.PrefillChunkTokens = 128;
        });
        var logits = await LoadedModels.LogitsAsync(model, prompt, Token);
        output.WriteLine($"largest difference {Golden.MaxDifference(logits, expected):E2}; of dense attention {Golden.MaxDifference(all, expected):E2}");
        TensorAssert.Near(expected, logits, Tolerance, Tolerance, "logits");
        Assert.Equal((await Answer(cpu, prompt)).Tokens, (await Answer(model, prompt)).Tokens);
    }

    [Fact]
    public async Task ARequestThatIsCancelled_AndAModelThatIsDisposed_LeaveNothing()
    {
        await using (var model = await Load())
        {
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            var options = new ErnieGenerationOptions { MaxTokens = 200, IgnoreStopTokens = true };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync(s_prompt, options, source.Token)) await source.CancelAsync();
            });
            Assert.Equal(4, (await Answer(model, s_prompt)).Tokens.Count);
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
            // In a prefill of some seconds.
            var running = Task.Run(async () => await model.GenerateAsync(LoadedModels.Ids(7, 500), options, Token).ToListAsync(Token), Token);
            var launches = _gpu.Driver.Launches;
            while (_gpu.Driver.Launches == launches) await Task.Delay(1, Token);
            await model.DisposeAsync();
            await Assert.ThrowsAsync<ObjectDisposedException>(() => running);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Kernels_AreCompiledWhileLoading()
    {
        await using var model = await Load();
        var loaded = _gpu.Driver.Live(FakeCuda.Modules);
        await Answer(model, s_prompt);
        Assert.Equal((5, 5), (loaded, _gpu.Driver.Live(FakeCuda.Modules)));
    }

    [Fact]
    public async Task Routers_ChooseAsOnTheCpu()
    {
        await using var cpu = await TinyModel.LoadAsync();
        await using var model = await Load();
        await LoadedModels.LogitsAsync(cpu, s_prompt, Token);
        await LoadedModels.LogitsAsync(model, s_prompt, Token);
        Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens), model.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens));
    }

    [Fact]
    public async Task AConversation_ForkedRewoundAndSaved_GoesOnAsBefore_AndOnTheCpu()
    {
        using var folder = new TemporaryFolder();
        var (first, second) = (LoadedModels.Ids(3, 20), LoadedModels.Ids(4, 9));
        await using var cpu = await TinyModel.LoadAsync();
        using var there = cpu.StartConversation();
        var begin = await Continue(there, first);
        var expected = await Continue(there, second);
        await using (var model = await Load())
        {
            using var conversation = model.StartConversation();
            Assert.Equal(begin, await Continue(conversation, first));
            var count = conversation.TokenCount;
            await conversation.SaveAsync(folder.File("saved"), Token);
            using (var fork = await conversation.ForkAsync()) Assert.Equal(expected, await Continue(fork, second));
            await Continue(conversation, LoadedModels.Ids(5, 6));
            await conversation.RewindAsync(count);
            Assert.Equal(expected, await Continue(conversation, second));

            // A file holds rows, whatever the blocks of either device are like.
            using (var restored = await model.RestoreConversationAsync(folder.File("saved"), Token)) Assert.Equal(expected, await Continue(restored, second));
            using (var elsewhere = await cpu.RestoreConversationAsync(folder.File("saved"), Token)) Assert.Equal(expected, await Continue(elsewhere, second));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AChat_IsAnsweredAsOnTheCpu()
    {
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 12 };
        await using var cpu = await TinyModel.LoadAsync();
        using var there = cpu.AsChatClient();
        var expected = await there.GetResponseAsync("Who are you?", options, Token);
        await using (var model = await Load())
        {
            using var client = model.AsChatClient();
            var answer = await client.GetResponseAsync("Who are you?", options, Token);
            Assert.NotEmpty(answer.Text);
            Assert.Equal(expected.Text, answer.Text);
            Assert.Equal(expected.Usage!.OutputTokenCount, answer.Usage!.OutputTokenCount);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Draws_PenaltiesMasksAndProbabilities_AreTheCpus()
    {
        var options = new ErnieGenerationOptions { Temperature = 0.9f, TopP = 0.95f, TopK = 50, RepetitionPenalty = 1.2f, FrequencyPenalty = 0.1f, Seed = 11, MaxTokens = 6, IgnoreStopTokens = true };
        options.LogitBias = new Dictionary<int, float> { [40] = 3, [41] = -100 };
        var chat = new ChatOptions { ResponseFormat = ChatResponseFormat.ForJsonSchema<int[]>(), MaxOutputTokens = 6, Seed = 3 };
        await using var cpu = await TinyModel.LoadAsync();
        await using (var model = await Load())
        {
            async Task<List<(int Token, TokenProbabilities Probabilities)>> Draw(ErnieModel from) =>
                await from.GenerateTokensAsync(LoadedModels.Ids(8, 12), options, null, 3, Token).Select(static token => (token.Id, token.Probabilities!)).ToListAsync(Token);
            var (expected, drawn) = (await Draw(cpu), await Draw(model));
            Assert.Equal(expected.Select(static e => e.Token), drawn.Select(static d => d.Token));
            foreach (var (e, d) in expected.Zip(drawn))
            {
                Assert.Equal(e.Probabilities.Chosen, d.Probabilities.Chosen, 1e-3f);
                Assert.Equal(e.Probabilities.Top.Select(static top => top.Id), d.Probabilities.Top.Select(static top => top.Id));
                foreach (var (a, b) in e.Probabilities.Top.Zip(d.Probabilities.Top)) Assert.Equal(a.LogProbability, b.LogProbability, 1e-3f);
            }
            using IChatClient there = cpu.AsChatClient(), client = model.AsChatClient();
            var answer = (await client.GetResponseAsync("Name three numbers.", chat, Token)).Text;
            Assert.StartsWith("[", answer, StringComparison.Ordinal);
            Assert.Equal((await there.GetResponseAsync("Name three numbers.", chat, Token)).Text, answer);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Auto_TakesTheGpu_AndSaysSo()
    {
        var log = new RecordedLog();
        await using (var model = await Load(options => (options.Device, options.LoggerFactory) = (ErnieDevice.Auto, log.Factory)))
        {
            Assert.Contains(log.Lines, static line => line.StartsWith("Device: Fake GPU 0 (sm_90, 8.0 GiB).", StringComparison.Ordinal) && line.Contains("never on a GPU", StringComparison.Ordinal));
            Assert.Contains(log.Lines, static line => line.Contains("kernels cuda", StringComparison.Ordinal));
            Assert.True(_gpu.Driver.UsedBytes > 10 << 20, $"{_gpu.Driver.UsedBytes} bytes");
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Auto_TakesTheCpu_WhereTheGpuFailsWhileLoading()
    {
        var log = new RecordedLog();
        _gpu.Driver.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory, 9);
        await using (var model = await Load(options => (options.Device, options.LoggerFactory) = (ErnieDevice.Auto, log.Factory)))
        {
            Assert.Contains(log.Lines, static line => line.StartsWith("Device: the CPU", StringComparison.Ordinal) && line.Contains("no room for the model's weights", StringComparison.Ordinal));
            _gpu.Driver.AssertNothingIsLeft();
        }
    }

    private Task<ErnieModel> Load(Action<ErnieModelOptions>? configure = null) => TinyModel.LoadAsync(options =>
    {
        (options.Device, options.Installation, options.KvCacheBytes) = (ErnieDevice.Cuda, _gpu.Installation, 8 << 20);
        configure?.Invoke(options);
    });

    private static async Task<(List<int> Tokens, int Cached)> Answer(ErnieModel model, int[] prompt)
    {
        var tokens = new List<int>();
        var cached = 0;
        await foreach (var token in model.GenerateTokensAsync(prompt, Greedy, Token))
        {
            tokens.Add(token.Id);
            cached = token.CachedTokens;
        }
        return (tokens, cached);
    }

    private static async Task<List<int>> Continue(ErnieConversation conversation, int[] prompt) => await conversation.ContinueAsync(prompt, Greedy, Token).ToListAsync(Token);

    private static ErnieGenerationOptions Greedy => new() { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true };
}
