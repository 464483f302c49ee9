using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Models of other kinds than the shipped one with their layers divided over several emulated GPUs, and requests that are cancelled beside others.</summary>
[Collection(FakeCuda.Collection)]
public sealed class SeveralGpusModelsTests : IDisposable
{
    private static readonly int[] s_prompt = [5, 6, 7, 60, 3, 8];

    private readonly LimitedGpu _gpus = new(count: 4);
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _gpus.Dispose();
        _folder.Dispose();
    }

    /// <summary>The first GPU looks tokens up in the matrix that is the last one's head.</summary>
    [Theory]
    [InlineData(ErniePrecision.BFloat16)]
    [InlineData(ErniePrecision.Int8)]
    public async Task ATiedDenseModel_WithALayerOnEachGpu_GivesTheBitsOfOne(ErniePrecision dense)
    {
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Dense, 3), null, _folder.File("model"), new ErnieExportOptions { Experts = ErniePrecision.BFloat16, Dense = dense, Calibrate = false }, null, Token);
        await AssertSameBits(_folder.File("model"), SmallModels.Dense.LayerCount);
    }

    [Fact]
    public async Task WeightsOf2And4And8Bits_GiveTheBitsOfOneGpu()
    {
        new TwoBitsCheckpoint().Write(_folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(_folder.File("checkpoint"), _folder.File("model"), cancellationToken: Token);
        await AssertSameBits(_folder.File("model"), 3);
    }

    [Fact]
    public async Task WhereEachLayerHasItsGpu_MoreAreNotAdvised()
    {
        var config = SmallModels.Moe with { HeadDim = 32 };
        var path = _folder.File("model");
        ErnieExporter.Export(new SyntheticWeights(config, 3), null, path, ExportAs.BFloat16, null, Token);
        var log = new RecordedLog();
        await using (await Load(path, config.LayerCount, _gpus.Plan(path, gpus: config.LayerCount).LeastBytes, log)) { }
        Assert.Contains(log.Lines, static line => line.Contains("weights stay on the CPU", StringComparison.Ordinal));
        Assert.DoesNotContain(log.Lines, static line => line.Contains("usable GPUs", StringComparison.Ordinal));
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AStepWhoseTokensCannotBeChosen_IsFollowedByAnOrdinaryOne()
    {
        await using (var model = await Load(await TinyModel.ExportedAsync(), 3))
        {
            async Task<(int Launches, List<int> Answer)> Ask()
            {
                var before = _gpus.Driver.Launches;
                var answer = await LimitedGpu.Answer(model, s_prompt, 1);
                return (_gpus.Driver.Launches - before, answer);
            }

            var expected = await Ask();
            // Two residual streams go to GPUs, and what the sampler must know.
            _gpus.Driver.Fail("cuMemcpyHtoDAsync_v2", (CudaResult)700, 3);
            await Assert.ThrowsAsync<InvalidOperationException>(Ask);
            var (launches, answer) = await Ask();
            Assert.Equal(expected.Answer, answer);
            // What is known of a step spares launches.
            Assert.Equal(expected.Launches, launches);
        }
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task RequestsThatAreCancelled_LeaveTheOthersTheirAnswers_AndNoBlocks()
    {
        var path = await TinyModel.ExportedAsync();
        var shared = LoadedModels.Ids(1, 140);
        int[][] prompts = [[.. shared, 5, 6], [.. LimitedGpu.Prompt], [.. shared, 9], [88], LoadedModels.Ids(9, 60)];
        static ErnieGenerationOptions Options(int request) => new()
        {
            Temperature = request % 2 == 0 ? 0 : 0.9f, TopP = 0.9f, Seed = request, RepetitionPenalty = 1.3f, PresencePenalty = 0.2f, MaxTokens = 4, IgnoreStopTokens = true,
        };
        async Task<List<(int, float)>> Answer(ErnieModel model, int request, CancellationToken cancellationToken) =>
            await model.GenerateTokensAsync(prompts[request], Options(request), null, 2, cancellationToken).Select(static token => (token.Id, token.Probabilities!.Chosen)).ToListAsync(cancellationToken);

        var expected = new List<List<(int, float)>>();
        await using (var one = await Load(path, 1)) for (var request = 0; request < prompts.Length; request++) expected.Add(await Answer(one, request, Token));
        await using (var model = await Load(path, 3, configure: static options => options.MaxConcurrentRequests = 4))
        {
            // In the prompt of one, and when others have begun.
            foreach (var cancelled in new[] { 0, 2 })
            {
                using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
                var launches = _gpus.Driver.Launches;
                var answers = Enumerable.Range(0, prompts.Length).Select(request => Task.Run(() => Answer(model, request, request == cancelled ? source.Token : Token), Token)).ToArray();
                while (_gpus.Driver.Launches < launches + 40 + 100 * cancelled && !answers[cancelled].IsCompleted) await Task.Delay(1, Token);
                await source.CancelAsync();
                for (var request = 0; request < prompts.Length; request++)
                {
                    if (request == cancelled) await Record.ExceptionAsync(() => answers[cancelled]);
                    else Assert.Equal(expected[request], await answers[request]);
                }
            }
            Assert.Equal(expected[0], await Answer(model, 0, Token));
            await model.ClearPrefixCacheAsync();
            await model.ClearPrefixCacheAsync();
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
        }
        _gpus.Driver.AssertNothingIsLeft();
    }

    private async Task AssertSameBits(string path, int count)
    {
        var seen = new List<(float[] Logits, List<int> Answer)>();
        foreach (var gpus in new[] { 1, count })
        {
            await using (var model = await Load(path, gpus)) seen.Add((await LoadedModels.LogitsAsync(model, s_prompt, Token), await LimitedGpu.Answer(model, s_prompt, 12)));
            _gpus.Driver.AssertNothingIsLeft();
        }
        Assert.Equal(seen[0].Logits, seen[1].Logits);
        Assert.Equal(seen[0].Answer, seen[1].Answer);
    }

    private Task<ErnieModel> Load(string path, int count, long? limit = null, RecordedLog? log = null, Action<ErnieModelOptions>? configure = null) =>
        _gpus.LoadAsync(path, limit, log, options =>
        {
            options.GpuCount = count;
            configure?.Invoke(options);
        });
}
