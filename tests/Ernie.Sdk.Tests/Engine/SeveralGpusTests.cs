using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model with its layers divided over several emulated GPUs, whose memory is each one's: the results are those of one GPU and of the CPU.</summary>
[Collection(FakeCuda.Collection)]
public sealed class SeveralGpusTests(ITestOutputHelper output) : IDisposable
{
    private static readonly int[] s_prompt = [.. LimitedGpu.Prompt];

    private readonly LimitedGpu _gpus = new(count: 4);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpus.Dispose();

    [Theory]
    [InlineData(2, ErnieKvCacheType.Float32)]
    [InlineData(3, ErnieKvCacheType.Int8)]
    [InlineData(4, ErnieKvCacheType.BFloat16)]
    public async Task Layers_AreDividedAsPlanned_AndGiveWhatOneGpuGives(int count, ErnieKvCacheType kvType)
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpus.Least(path, static plan => plan.IsWhollyOnGpus, kvType, count);
        var plan = _gpus.Plan(path, limit, kvType, gpus: count);
        await using var cpu = await _gpus.LoadOnCpuAsync(path, kvType);
        float[] one;
        List<int> answer;
        await using (var model = await Load(path, 1, null, kvType)) (one, answer) = (await LoadedModels.LogitsAsync(model, s_prompt, Token), await LimitedGpu.Answer(model, LoadedModels.Ids(1, 150)));
        var log = new RecordedLog();
        await using (var model = await Load(path, count, limit + LimitedGpu.Slack, kvType, log, static options => options.CudaGraphs = true))
        {
            var logits = await LoadedModels.LogitsAsync(model, s_prompt, Token);
            Assert.Equal(one, logits);
            var tolerance = kvType == ErnieKvCacheType.Float32 ? LimitedGpu.Tolerance : 0.05;
            var expected = await LoadedModels.LogitsAsync(cpu, s_prompt, Token);
            TensorAssert.Near(expected, logits, tolerance, tolerance, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, LoadedModels.Ids(1, 150)));
            Assert.Equal(answer, await LimitedGpu.Answer(cpu, LoadedModels.Ids(1, 150)));
            // Each GPU counts the choices of its own layers, once.
            Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.TokenCount), model.GetExpertLoad().Layers.Select(static layer => layer.TokenCount));
            for (var gpu = 0; gpu < count; gpu++)
            {
                output.WriteLine($"GPU {gpu}: layers {plan.Gpus[gpu].Layers}, {_gpus.Driver.PeakBytesOf(gpu):N0} of {limit:N0} bytes");
                Assert.InRange(_gpus.Driver.PeakBytesOf(gpu), plan.Gpus[gpu].WeightBytes + plan.Gpus[gpu].KvCacheBytes, limit + LimitedGpu.Slack);
                Assert.Contains(log.Lines, line => line.StartsWith($"GPU {gpu}: layers {plan.Gpus[gpu].FirstLayer}-{plan.Gpus[gpu].Layers.Last}, ", StringComparison.Ordinal));
            }
            for (var gpu = count; gpu < 4; gpu++) Assert.Equal(0, _gpus.Driver.UsedBytesOf(gpu));
        }
        Assert.Contains("CUDA graphs: off, because several GPUs compute each step one after another.", log.Lines);
        Assert.Equal(LimitedGpu.AllLayers, plan.Gpus.Sum(static gpu => gpu.LayerCount));
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task QuantisedLayers_GiveTheBitsOfOneGpu()
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("model");
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, path, new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, Calibrate = false }, cancellationToken: Token);
        var seen = new List<(float[] Logits, List<int> Answer)>();
        foreach (var count in new[] { 1, 3 })
        {
            await using var model = await Load(path, count);
            seen.Add((await LoadedModels.LogitsAsync(model, LoadedModels.Ids(3, 140), Token), await LimitedGpu.Answer(model, s_prompt, 12)));
        }
        Assert.Equal(seen[0].Logits, seen[1].Logits);
        Assert.Equal(seen[0].Answer, seen[1].Answer);
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData(LimitedGpu.MoeLayers * LimitedGpu.ExpertsOfLayer / 2, 0)]
    [InlineData(LimitedGpu.MoeLayers * LimitedGpu.ExpertsOfLayer, 2)]
    public async Task WhatTwoGpusHaveNoRoomFor_IsComputedOnTheCpu(int mostExperts, int mostLayers)
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpus.Least(path, plan => plan.Fits && plan.CpuLayers.Count <= mostLayers && plan.CpuExperts.Values.Sum() <= mostExperts, gpus: 2);
        var plan = _gpus.Plan(path, limit + LimitedGpu.Slack, gpus: 2);
        Assert.Equal(mostLayers, plan.CpuLayers.Count);
        // Both GPUs leave experts to the CPU.
        Assert.All(plan.Gpus, gpu => Assert.Contains(plan.CpuExperts, pair => pair.Value > 0 && gpu.Layers.Contains(pair.Key)));
        await using var cpu = await _gpus.LoadOnCpuAsync(path);
        var log = new RecordedLog();
        await using (var model = await Load(path, 2, limit + LimitedGpu.Slack, log: log))
        {
            var (expected, logits) = (await LoadedModels.LogitsAsync(cpu, s_prompt, Token), await LoadedModels.LogitsAsync(model, s_prompt, Token));
            TensorAssert.Near(expected, logits, LimitedGpu.Tolerance, LimitedGpu.Tolerance, "logits");
            foreach (var prompt in new[] { LoadedModels.Ids(1, 150), s_prompt }) Assert.Equal(await LimitedGpu.Answer(cpu, prompt, 16), await LimitedGpu.Answer(model, prompt, 16));
            Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens), model.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens));
            for (var gpu = 0; gpu < 2; gpu++) Assert.InRange(_gpus.Driver.PeakBytesOf(gpu), limit / 2, limit + LimitedGpu.Slack);
        }
        Assert.Contains(log.Lines, line => line.Contains($"{plan.CpuWeightBytes:N0} bytes of weights stay on the CPU", StringComparison.Ordinal) && line.Contains("The GPUs have", StringComparison.Ordinal));
        Assert.Contains("There are 4 usable GPUs: with a GpuCount of more than 2, less would stay on the CPU.", log.Lines);
        _gpus.Driver.AssertNothingIsLeft();
    }

    /// <summary>The first GPU has room for a layer, but not for the embedding.</summary>
    [Fact]
    public async Task AGpuThatIsFuller_TakesNoExpertsOffTheOthers()
    {
        var path = await TinyModel.ExportedAsync();
        // Of GPUs that are too small for anything, the first one is planned to have a layer and no experts.
        var layer = _gpus.Plan(path, 1, gpus: 2).Gpus[0];
        _gpus.Driver.Resize(0, (layer.CapacityBytes - layer.FreeBytes + LimitedGpu.ExpertBytes(path) + (1L << 30)) * 50 / 49 + 50);
        var log = new RecordedLog();
        await using (var model = await Load(path, 2, log: log))
        await using (var cpu = await _gpus.LoadOnCpuAsync(path))
            Assert.Equal(await LimitedGpu.Answer(cpu, LoadedModels.Ids(1, 150)), await LimitedGpu.Answer(model, LoadedModels.Ids(1, 150)));
        Assert.Contains(log.Lines, static line => line.Contains("layer 0 altogether, experts ", StringComparison.Ordinal) && line.Contains("experts 7 of layer 1. The GPUs", StringComparison.Ordinal));
        Assert.Contains(log.Lines, static line => line.StartsWith("GPU 1: layers 2-4, ", StringComparison.Ordinal));
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task WhichGpuIsFull_IsSaid()
    {
        var path = await TinyModel.ExportedAsync();
        // Cards of one kind have one name.
        _gpus.Driver.Fail("cuMemGetInfo_v2", CudaResult.OutOfMemory, 2);
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, 3));
        Assert.Contains("GPU memory: GPU 1, Fake GPU 1 (sm_90, 8.0 GiB): cuMemGetInfo", e.Message, StringComparison.Ordinal);
        _gpus.Driver.Resize(2, 1 << 20);
        e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, 3));
        Assert.Contains("GPU 2, Fake GPU 2 (sm_90, 0.0 GiB) has 1,048,576 bytes free, 1,048,576 of them in reserve;", e.Message, StringComparison.Ordinal);
        Assert.Contains("or use other GPUs (CUDA_VISIBLE_DEVICES) or a smaller GpuCount;", e.Message, StringComparison.Ordinal);
        await using (await Load(path, 2)) { }
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task GpusOfDifferentSizes_AreFilledAccordingly()
    {
        var path = await TinyModel.ExportedAsync();
        var whole = _gpus.Least(path, static plan => plan.IsWhollyOnGpus);
        // What loading leaves free is more than half of such small GPUs: a reserve of a gibibyte, and what is said here.
        _gpus.Driver.Resize(0, ErniePlan.ReserveOf(whole) * 51 / 50 + whole / 3);
        _gpus.Driver.Resize(1, ErniePlan.ReserveOf(whole) * 51 / 50 + whole);
        var log = new RecordedLog();
        await using (var model = await Load(path, 2, log: log))
        await using (var cpu = await _gpus.LoadOnCpuAsync(path))
            Assert.Equal(await LimitedGpu.Answer(cpu, s_prompt), await LimitedGpu.Answer(model, s_prompt));
        foreach (var line in log.Lines) output.WriteLine(line);
        var first = Assert.Single(log.Lines, static line => line.StartsWith("GPU 0: layers 0-", StringComparison.Ordinal));
        Assert.True(int.Parse(first["GPU 0: layers 0-".Length..first.IndexOf(',', StringComparison.Ordinal)], System.Globalization.CultureInfo.InvariantCulture) < 2, first);
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Conversations_GoOnWhereverTheirLayersAre()
    {
        var path = await TinyModel.ExportedAsync();
        using var folder = new TemporaryFolder();
        int[] first = LoadedModels.Ids(5, 140), second = [9, 9, 30], other = [77, 4];
        await using var cpu = await _gpus.LoadOnCpuAsync(path);
        List<int> expected, forked;
        using (var conversation = cpu.StartConversation())
        {
            await Continue(conversation, first);
            using var fork = await conversation.ForkAsync();
            (expected, forked) = (await Continue(conversation, second), await Continue(fork, other));
        }
        await using (var model = await Load(path, 3))
        {
            using var conversation = model.StartConversation();
            await Continue(conversation, first);
            await conversation.SaveAsync(folder.File("saved"), Token);
            using var fork = await conversation.ForkAsync();
            Assert.Equal(expected, await Continue(conversation, second));
            Assert.Equal(forked, await Continue(fork, other));
        }
        foreach (var count in new[] { 0, 1, 2, 3 })
        {
            await using var model = count == 0 ? await _gpus.LoadOnCpuAsync(path) : await Load(path, count);
            using var conversation = await model.RestoreConversationAsync(folder.File("saved"), Token);
            Assert.Equal(expected, await Continue(conversation, second));
        }
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task RequestsSideBySide_AreThoseOfTheCpu()
    {
        var path = await TinyModel.ExportedAsync();
        int[][] prompts = [s_prompt, LoadedModels.Ids(1, 130), [5, 6], LoadedModels.Ids(9, 200), [88]];
        await using var cpu = await _gpus.LoadOnCpuAsync(path);
        await using (var model = await Load(path, 3, configure: static options => (options.MaxConcurrentRequests, options.ContextLength) = (4, 256)))
        {
            var answers = await Task.WhenAll(prompts.Select(prompt => LimitedGpu.Answer(model, prompt, 8)));
            for (var i = 0; i < prompts.Length; i++) Assert.Equal(await LimitedGpu.Answer(cpu, prompts[i], 8), answers[i]);
        }
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task CancelledAndFailedSteps_AreFollowedByOthers()
    {
        var path = await TinyModel.ExportedAsync();
        await using (var model = await Load(path, 3))
        {
            var expected = await LimitedGpu.Answer(model, s_prompt, 2);
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync(s_prompt, new ErnieGenerationOptions { MaxTokens = 200, IgnoreStopTokens = true }, source.Token)) await source.CancelAsync();
            });
            Assert.Equal(expected, await LimitedGpu.Answer(model, s_prompt, 2));
            foreach (var call in new[] { "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuLaunchKernel", "cuCtxSetCurrent" })
            {
                var failed = 0;
                // On one GPU after another, in the prompt's step and in later ones.
                foreach (var nth in new[] { 1, 2, 3, 5, 60 })
                {
                    _gpus.Driver.Fail(call, (CudaResult)700, nth);
                    var e = await Record.ExceptionAsync(() => LimitedGpu.Answer(model, s_prompt, 2));
                    _gpus.Driver.Fail(call, (CudaResult)700, 0);
                    if (e is not null) failed++;
                    if (e is not null) Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", Assert.IsType<InvalidOperationException>(e).Message, StringComparison.Ordinal);
                    Assert.Equal(expected, await LimitedGpu.Answer(model, s_prompt, 2));
                }
                output.WriteLine($"{call}: {failed} failures reported");
                Assert.True(failed >= 4, call);
            }
        }
        _gpus.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task MemoryThatRunsOutOnAnyGpu_LeavesNothing()
    {
        var path = await TinyModel.ExportedAsync();
        for (var gpu = 0; gpu < 3; gpu++)
        {
            // The plan is made for GPUs that are larger than they turn out to be.
            foreach (var nth in new[] { 1, 2, 5, 20, 40 })
            {
                _gpus.Driver.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory, gpu * 40 + nth);
                var e = await Record.ExceptionAsync(async () => await (await Load(path, 3)).DisposeAsync());
                _gpus.Driver.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory, 0);
                if (e is not null) Assert.Contains("GPU", Assert.IsType<ErnieDeviceException>(e).Message, StringComparison.Ordinal);
                else Assert.True(gpu * 40 + nth > 60, "Nothing failed.");
                _gpus.Driver.AssertNothingIsLeft();
            }
        }
    }

    [Fact]
    public async Task WhatCannotBeDivided_IsRefused()
    {
        var path = await TinyModel.ExportedAsync();
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, 5));
        Assert.Contains("GpuCount is 5, but 4 can be used: Fake GPU 0", e.Message, StringComparison.Ordinal);
        Assert.Contains("Set GpuCount to 4", e.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Load(path, 0));
        // Auto says why it takes the CPU.
        var log = new RecordedLog();
        await using (var model = await Load(path, 5, log: log, configure: static options => options.Device = ErnieDevice.Auto)) Assert.NotEmpty(await LimitedGpu.Answer(model, s_prompt));
        Assert.Contains(log.Lines, static line => line.Contains("Device: the CPU", StringComparison.Ordinal) && line.Contains("GpuCount is 5", StringComparison.Ordinal));
        using var folder = new TemporaryFolder();
        ErnieExporter.Export(new SyntheticWeights(SmallModels.Dense, 3), null, folder.File("dense"), ExportAs.BFloat16, null, Token);
        e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(folder.File("dense"), SmallModels.Dense.LayerCount + 1));
        Assert.Contains($"has {SmallModels.Dense.LayerCount} layers to divide", e.Message, StringComparison.Ordinal);
        // Too small even with all but one layer for each on the CPU: the figure named is enough.
        e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, 2, 1));
        var least = long.Parse(System.Text.RegularExpressions.Regex.Match(e.Message, @"Set GpuMemoryBytes to ([\d,]+)").Groups[1].Value, System.Globalization.NumberStyles.AllowThousands, System.Globalization.CultureInfo.InvariantCulture);
        await using (var model = await Load(path, 2, least)) Assert.NotEmpty(await LimitedGpu.Answer(model, s_prompt));
        await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, 2, least - 1));
        _gpus.Driver.AssertNothingIsLeft();
    }

    private Task<ErnieModel> Load(string path, int count, long? limit = null, ErnieKvCacheType kvType = ErnieKvCacheType.Float32, RecordedLog? log = null, Action<ErnieModelOptions>? configure = null) =>
        _gpus.LoadAsync(path, limit, log, options =>
        {
            (options.GpuCount, options.KvCacheType) = (count, kvType);
            configure?.Invoke(options);
        });

    private static Task<List<int>> Continue(ErnieConversation conversation, int[] ids) =>
        conversation.ContinueAsync(ids, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, Token).ToListAsync(Token).AsTask();
}
