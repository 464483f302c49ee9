using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Decode steps that are captured as graphs on an emulated GPU, where a captured step does nothing but what was recorded: the same launches over other numbers give what ordinary steps give.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuGraphTests(ITestOutputHelper output) : IDisposable
{
    private readonly EmulatedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public async Task Answers_AreThoseOfOrdinarySteps_ToTheBit(int sequences)
    {
        int[][] prompts = [.. Enumerable.Range(0, sequences).Select(static s => LoadedModels.Ids(s, 5 + 3 * s))];
        var expected = await Answers(graphs: false, prompts);
        Assert.Equal((0, 0), _gpu.Driver.Graphs);
        var answers = await Answers(graphs: true, prompts);
        Assert.Equal(expected, answers);
        var (captured, replayed) = _gpu.Driver.Graphs;
        output.WriteLine($"{captured} graphs, {replayed} replays");
        // One request decodes five tokens. Of several, which begin and end one after another, some steps are of other numbers, and three are no number that is captured.
        if (sequences == 1) Assert.Equal((1, 5), (captured, replayed));
        Assert.InRange(replayed, captured, 5 * sequences);
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>Without an engine, so that each of the three steps has them all; the first is computed, captured and replayed.</summary>
    [Theory]
    [InlineData(8)]
    [InlineData(16)]
    public async Task StepsOfManySequences_AreThoseOfOrdinarySteps_ToTheBit(int sequences)
    {
        var folder = await TinyModel.ExportedAsync();
        using (var ordinary = new DecodeSteps(_gpu.Installation, folder, sequences, 8, graphs: false, overlaps: false, Token))
        using (var captured = new DecodeSteps(_gpu.Installation, folder, sequences, 8, graphs: true, overlaps: true, Token))
        {
            var expected = ordinary.Run(sequences, 3);
            Assert.Equal((0, 0), _gpu.Driver.Graphs);
            var actual = captured.Run(sequences, 3);
            Assert.Equal((1, 3), _gpu.Driver.Graphs);
            Assert.True(captured.UsesGraphs);
            Assert.Equal(expected.Tokens, actual.Tokens);
            TensorAssert.SameBits([.. expected.Logits], [.. actual.Logits], "logits");
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>ONNX Runtime's captures forbid allocations to all threads that do not say that they are none of their business.</summary>
    [Fact]
    public async Task WhileAnotherThreadCaptures_ModelsAreUsedAndDisposed()
    {
        int[] prompt = LoadedModels.Ids(7, 4);
        var expected = (await Answers(graphs: true, [prompt]))[0];
        var model = await Load(graphs: true);
        using var began = new SemaphoreSlim(0);
        using var ends = new SemaphoreSlim(0);
        var capturing = Task.Factory.StartNew(() =>
        {
            using var context = _gpu.Driver.Device().Retain();
            using var stream = context.CreateStream();
            var end = _gpu.Driver.Capture(stream);
            began.Release();
            ends.Wait(Token);
            // For this thread's own capture nothing has changed.
            var e = Assert.Throws<CudaException>(() => context.Allocate(16));
            end();
            return e.Result;
        }, Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        try
        {
            await began.WaitAsync(Token);
            Assert.Equal(expected, await Answer(model, prompt));
        }
        finally
        {
            await model.DisposeAsync();
            ends.Release();
        }
        Assert.Equal(900, (int)await capturing);
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>A session waits for the whole GPU when it is created, which nobody may while a stream is captured.</summary>
    [Fact]
    public async Task WhileAModelIsLoaded_StepsAreOrdinaryOnes_AndAreCapturedLater()
    {
        int[] prompt = LoadedModels.Ids(7, 4);
        using var log = new RecordedLog();
        await using (var model = await TinyModel.LoadAsync(options => Configure(options, graphs: true), log.Factory))
        {
            using var began = new SemaphoreSlim(0);
            using var goesOn = new SemaphoreSlim(0);
            var waits = true;
            var loading = Task.Run(async () =>
            {
                var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32 };
                Configure(options, graphs: true);
                return await ErnieModel.LoadAsync(model.Path, options, new DirectProgress<ErnieProgress>(_ =>
                {
                    if (!waits) return;
                    waits = false;
                    began.Release();
                    goesOn.Wait(Token);
                }), Token);
            }, Token);
            await began.WaitAsync(Token);
            var expected = await Answer(model, prompt);
            Assert.Equal(0, _gpu.Driver.Graphs.Captured);
            goesOn.Release();
            await using var other = await loading;
            var answers = await Task.WhenAll(Answer(model, prompt), Answer(other, prompt));
            Assert.All(answers, answer => Assert.Equal(expected, answer));
            Assert.Equal(2, _gpu.Driver.Graphs.Captured);
        }
        Assert.DoesNotContain(log.Lines, static line => line.Contains("CUDA graphs are off", StringComparison.Ordinal));
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>What a capture may not hold, as an allocation or a wait, the driver refuses with this error.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(20)]
    public async Task AStepThatCannotBeCaptured_IsReported_AndStepsGoOnWithoutGraphs(int launch)
    {
        const string call = "cuLaunchKernel";
        const int captureUnsupported = 900;
        int[] prompt = LoadedModels.Ids(7, 4);
        var (launches, expected) = (new List<int>(), new List<(int, float)>());
        await using (var model = await TinyModel.LoadAsync(options =>
        {
            Configure(options, graphs: false);
            options.Observer = (_, _, _) => launches.Add(_gpu.Driver.Launches);
        }))
        {
            expected = await Answer(model, prompt);
        }
        using var log = new RecordedLog();
        var isArmed = false;
        await using (var model = await TinyModel.LoadAsync(options =>
        {
            Configure(options, graphs: true);
            options.Observer = (_, _, _) =>
            {
                // After the prefill: the first token is chosen, the first decode step is an ordinary one, then it is captured.
                if (!isArmed) _gpu.Driver.Fail(call, (CudaResult)captureUnsupported, launches[1] - launches[0] + launch);
                isArmed = true;
            };
        }, log.Factory))
        {
            Assert.Equal(expected, await Answer(model, prompt));
            Assert.Contains(call, Assert.Single(log.Lines, static line => line.Contains("CUDA graphs are off", StringComparison.Ordinal)), StringComparison.Ordinal);
            Assert.Equal(expected, await Answer(model, prompt));
            Assert.Equal(1, _gpu.Driver.Graphs.Captured);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>Device memory for the numbers of a captured step, and pinned memory that they are copied from.</summary>
    [Theory]
    [InlineData("cuMemAlloc_v2")]
    [InlineData("cuMemHostRegister_v2")]
    public async Task AGraphThatHasNoMemory_IsReported_AndStepsGoOnWithoutGraphs(string call)
    {
        int[] prompt = LoadedModels.Ids(7, 4);
        List<(int Token, float LogProbability)> expected;
        await using (var model = await Load(graphs: false)) expected = await Answer(model, prompt);
        using var log = new RecordedLog();
        await using (var model = await TinyModel.LoadAsync(options => Configure(options, graphs: true), log.Factory))
        {
            // One token, chosen after the prefill: what choosing takes is there from then on.
            await model.GenerateAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 1 }, Token).ToListAsync(Token);
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory);
            Assert.Equal(expected, await Answer(model, prompt));
            Assert.Single(log.Lines, static line => line.Contains("CUDA graphs are off", StringComparison.Ordinal));
            Assert.Equal(0, _gpu.Driver.Graphs.Captured);
            Assert.Equal(expected, await Answer(model, prompt));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AnAnswerThatGrowsOverBlocks_IsCapturedAnew_WhereLaunchesChange()
    {
        int[][] prompts = [LoadedModels.Ids(1, 126)];
        var expected = await Answers(graphs: false, prompts);
        Assert.Equal(expected, await Answers(graphs: true, prompts));
        // One block, then two.
        Assert.Equal(2, _gpu.Driver.Graphs.Captured);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AnAnswerThatGrowsOverBlocks_OfOneGraph_IsThatOfOrdinarySteps()
    {
        // The graph is captured where the sequence has three blocks, and replayed where it has four.
        int[][] prompts = [LoadedModels.Ids(1, 381)];
        var expected = await Answers(graphs: false, prompts);
        Assert.Equal(expected, await Answers(graphs: true, prompts));
        Assert.Equal((1, 5), _gpu.Driver.Graphs);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AnAnswerThatBecomesSparse_HasAGraphOfEitherKind()
    {
        // Two decode steps read all three blocks, later ones two of four.
        var attention = new ErnieSparseAttention { DecoderTopKLeft = 1, DecoderTopKRight = 2, DecoderSequenceLimit = 383 };
        var prompt = LoadedModels.Ids(1, 381);
        var answers = new List<List<(int Token, float LogProbability)>>();
        foreach (var (graphs, sparse) in new[] { (false, attention), (true, attention), (false, ErnieSparseAttention.Dense) })
        {
            await using var model = await TinyModel.LoadAsync(options =>
            {
                Configure(options, graphs);
                options.SparseAttention = sparse;
            });
            answers.Add(await Answer(model, prompt));
        }
        Assert.Equal(answers[0], answers[1]);
        Assert.Equal(2, _gpu.Driver.Graphs.Captured);
        Assert.Equal(answers[0].Take(3), answers[2].Take(3));
        Assert.NotEqual(answers[0][3..], answers[2][3..]);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Routers_AreCounted_AndScoringBetweenAnswersDoesNoHarm()
    {
        await using (var model = await Load(graphs: true))
        {
            var before = await Answer(model, LoadedModels.Ids(3, 6));
            // Logits of every token take more memory: they move.
            await model.ScoreAsync(LoadedModels.Ids(4, 40), static (_, _) => { }, Token);
            Assert.Equal(before, await Answer(model, LoadedModels.Ids(3, 6)));
            var load = model.GetExpertLoad();
            Assert.All(load.Layers, layer => Assert.Equal((long)layer.TokenCount * load.ExpertsPerToken, layer.ExpertTokens.Sum()));
            Assert.Equal(40 + 2 * (6 + 5), load.Layers[0].TokenCount);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    private async Task<List<(int Token, float LogProbability)>[]> Answers(bool graphs, int[][] prompts)
    {
        await using var model = await Load(graphs);
        return await Task.WhenAll(prompts.Select(prompt => Answer(model, prompt)));
    }

    /// <summary>Six tokens, of which five are decoded, with their log-probabilities: equal bits of logits give equal ones.</summary>
    private static async Task<List<(int Token, float LogProbability)>> Answer(ErnieModel model, int[] prompt) =>
        await model.GenerateTokensAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 6, IgnoreStopTokens = true }, null, 0, Token).Select(static token => (token.Id, token.Probabilities!.Chosen)).ToListAsync(Token);

    private Task<ErnieModel> Load(bool graphs) => TinyModel.LoadAsync(options => Configure(options, graphs));

    private void Configure(ErnieModelOptions options, bool graphs) =>
        (options.Device, options.Installation, options.KvCacheBytes, options.CudaGraphs, options.PrefixCacheBytes) = (ErnieDevice.Cuda, _gpu.Installation, 8 << 20, graphs, 0);
}
