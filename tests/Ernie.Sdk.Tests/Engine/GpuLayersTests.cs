using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model on an emulated GPU that is too small for its layers even without their experts: the first ones are the CPU's, with their cache, and the results do not change.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuLayersTests(ITestOutputHelper output) : IDisposable
{
    private readonly LimitedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Theory]
    [InlineData(1, ErnieKvCacheType.Float32)]
    [InlineData(2, ErnieKvCacheType.Float32)]
    [InlineData(2, ErnieKvCacheType.Int8)]
    [InlineData(LimitedGpu.AllLayers - 1, ErnieKvCacheType.BFloat16)]
    public async Task LayersThatDoNotFit_AreComputedOnTheCpu_AsPlanned(int layers, ErnieKvCacheType kvType)
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.WithoutLayers(path, layers, kvType) + LimitedGpu.Slack;
        var plan = _gpu.Plan(path, limit, kvType);
        Assert.Equal(Enumerable.Range(0, layers), plan.CpuLayers);
        await using var cpu = await _gpu.LoadOnCpuAsync(path, kvType);
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, LimitedGpu.Prompt, Token), await LimitedGpu.Answer(cpu, LoadedModels.Ids(1, 150)));
        var log = new RecordedLog();
        await using (var model = await _gpu.LoadAsync(path, limit, log, options => (options.KvCacheType, options.CudaGraphs) = (kvType, true)))
        {
            var logits = await LoadedModels.LogitsAsync(model, LimitedGpu.Prompt, Token);
            output.WriteLine($"{layers} layers on the CPU, {kvType}: largest difference {Golden.MaxDifference(logits, expected):E2}");
            // A key or value that falls on the edge between two numbers of its type may fall either way.
            var tolerance = kvType == ErnieKvCacheType.Float32 ? LimitedGpu.Tolerance : 0.05;
            TensorAssert.Near(expected, logits, tolerance, tolerance, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, LoadedModels.Ids(1, 150)));
            Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.TokenCount), model.GetExpertLoad().Layers.Select(static layer => layer.TokenCount));
            if (kvType == ErnieKvCacheType.Float32) Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens), model.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens));
            output.WriteLine($"{_gpu.Driver.PeakBytes:N0} of {limit:N0} bytes");
            Assert.InRange(_gpu.Driver.PeakBytes, limit / 2, limit);
            Assert.Equal(0, _gpu.Driver.Graphs.Captured);
        }
        Assert.Contains(log.Lines, line => line.Contains($"{plan.CpuWeightBytes:N0} bytes of weights stay on the CPU and are computed there, because {limit:N0} bytes of GPU memory are too few for all: {(layers == 1 ? "layer 0" : $"layers 0-{layers - 1}")} altogether, experts 8 of layers 1-4.", StringComparison.Ordinal));
        Assert.Contains("CUDA graphs: off, because the CPU computes a part of each step.", log.Lines);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task QuantisedLayers_OnBothSides_GiveTheCpusLogits()
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("model");
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, path, new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, Calibrate = false }, cancellationToken: Token);
        var limit = _gpu.WithoutLayers(path, 3);
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, [LimitedGpu.Prompt[0]], Token), await LimitedGpu.Answer(cpu, LimitedGpu.Prompt));
        await using (var model = await _gpu.LoadAsync(path, limit))
        {
            var logits = await LoadedModels.LogitsAsync(model, [LimitedGpu.Prompt[0]], Token);
            output.WriteLine($"largest difference {Golden.MaxDifference(logits, expected):E2}");
            TensorAssert.Near(expected, logits, 0.3, 0, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            Assert.InRange(_gpu.Driver.PeakBytes, 1, limit);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task ADenseModel_HasOneCopyMoreAStep()
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("dense");
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Dense, 3), null, path, ExportAs.BFloat16, null, Token);
        int[] ids = [5, 6, 7, 120];
        float[]? expected = null;
        var sent = new List<int>();
        foreach (var layers in new[] { 0, 1 })
        {
            var log = new RecordedLog();
            await using (var model = await _gpu.LoadAsync(path, _gpu.WithoutLayers(path, layers) + LimitedGpu.Slack, log))
            {
                Assert.Equal(layers, log.Lines.Count(static line => line.Contains("too few for all: layer 0 altogether. ", StringComparison.Ordinal)));
                var before = Sent();
                var logits = await LoadedModels.LogitsAsync(model, ids, Token);
                sent.Add(Sent() - before);
                if (expected is not null) TensorAssert.Near(expected, logits, 1e-5, 1e-5, "logits");
                expected = logits;
            }
            _gpu.Driver.AssertNothingIsLeft();
        }
        Assert.Equal(1, sent[1] - sent[0]);

        int Sent() => _gpu.Driver.Calls.Count(static call => call == "cuMemcpyHtoDAsync_v2");
    }

    [Fact]
    public async Task Conversations_AreForkedSavedAndRestored_WithTheCacheOfBothDevices()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.WithoutLayers(path, 2);
        using var folder = new TemporaryFolder();
        int[] first = LoadedModels.Ids(5, 140), second = [9, 9, 30], other = [77, 4];
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        var (expected, forked) = await Talk(cpu, null);
        await using (var model = await _gpu.LoadAsync(path, limit))
        {
            var (answer, fork) = await Talk(model, folder.File("saved"));
            Assert.Equal(expected, answer);
            Assert.Equal(forked, fork);
        }
        // Saved after the first turn: whatever devices have its layers now.
        foreach (var layers in new[] { 0, 1, 4 })
        {
            await using var model = layers == 0 ? await _gpu.LoadOnCpuAsync(path) : await _gpu.LoadAsync(path, _gpu.WithoutLayers(path, layers));
            using var conversation = await model.RestoreConversationAsync(folder.File("saved"), Token);
            Assert.Equal(expected, await Continue(conversation, second));
        }
        _gpu.Driver.AssertNothingIsLeft();

        async Task<(List<int> Answer, List<int> Forked)> Talk(ErnieModel model, string? file)
        {
            using var conversation = model.StartConversation();
            await Continue(conversation, first);
            if (file is not null) await conversation.SaveAsync(file, Token);
            using var fork = await conversation.ForkAsync();
            return (await Continue(conversation, second), await Continue(fork, other));
        }
    }

    [Fact]
    public async Task PromptsThatBeginAlike_ShareBlocksOfBothDevices()
    {
        var path = await TinyModel.ExportedAsync();
        var shared = LoadedModels.Ids(1, 130);
        int[][] prompts = [[.. shared, 5, 6], [.. shared, 7]];
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        await using var model = await _gpu.LoadAsync(path, _gpu.WithoutLayers(path, 3));
        foreach (var prompt in prompts) Assert.Equal(await LimitedGpu.Answer(cpu, prompt), await LimitedGpu.Answer(model, prompt));
        // Of the second prompt, the first block is not computed again, on either device.
        Assert.All(model.GetExpertLoad().Layers, layer => Assert.Equal(prompts.Sum(static prompt => prompt.Length) - 128 + 2 * 3, layer.TokenCount));
    }

    [Fact]
    public async Task CancelledAndFailedSteps_AreFollowedByOthers()
    {
        var path = await TinyModel.ExportedAsync();
        await using (var model = await _gpu.LoadAsync(path, _gpu.WithoutLayers(path, 2)))
        {
            var expected = await LimitedGpu.Answer(model, LimitedGpu.Prompt);
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync(LimitedGpu.Prompt, new ErnieGenerationOptions { MaxTokens = 200, IgnoreStopTokens = true }, source.Token)) await source.CancelAsync();
            });
            Assert.Equal(expected, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            // The first copy to the device is that of the residual stream, in every step.
            _gpu.Driver.Fail("cuMemcpyHtoDAsync_v2", (CudaResult)700);
            var e = await Assert.ThrowsAsync<InvalidOperationException>(async () => await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", e.Message, StringComparison.Ordinal);
            Assert.Equal(expected, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task MemoryThatRunsOutWhileLoading_LeavesNothing()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.WithoutLayers(path, 2);
        foreach (var (call, nth) in new[] { ("cuMemHostRegister_v2", 1), ("cuMemHostRegister_v2", 2), ("cuMemAlloc_v2", 1), ("cuMemAlloc_v2", 2), ("cuMemAlloc_v2", 3), ("cuMemAlloc_v2", 6) })
        {
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
            await Assert.ThrowsAsync<ErnieDeviceException>(() => _gpu.LoadAsync(path, limit));
            _gpu.Driver.AssertNothingIsLeft();
        }
    }

    private static Task<List<int>> Continue(ErnieConversation conversation, int[] ids) =>
        conversation.ContinueAsync(ids, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, Token).ToListAsync(Token).AsTask();
}
