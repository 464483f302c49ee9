using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model on an emulated GPU that is too small for it: experts stay on the CPU, the results do not change, and no more memory is taken than was allowed.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuOffloadTests(ITestOutputHelper output) : IDisposable
{
    private readonly LimitedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(LimitedGpu.ExpertsOfLayer)]
    [InlineData(LimitedGpu.ExpertsOfLayer + 3)]
    [InlineData(LimitedGpu.MoeLayers * LimitedGpu.ExpertsOfLayer)]
    public async Task ExpertsThatDoNotFit_AreComputedOnTheCpu_AsPlanned(int away)
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.WithoutExperts(path, away) + LimitedGpu.Slack;
        var plan = _gpu.Plan(path, limit);
        Assert.Equal(away, plan.CpuExperts.Values.Sum());
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, LimitedGpu.Prompt, Token), await LimitedGpu.Answer(cpu, LoadedModels.Ids(1, 150)));
        var log = new RecordedLog();
        await using (var model = await _gpu.LoadAsync(path, limit, log))
        {
            var logits = await LoadedModels.LogitsAsync(model, LimitedGpu.Prompt, Token);
            output.WriteLine($"{away} experts on the CPU: largest difference {Golden.MaxDifference(logits, expected):E2}");
            TensorAssert.Near(expected, logits, LimitedGpu.Tolerance, LimitedGpu.Tolerance, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, LoadedModels.Ids(1, 150)));
            Assert.Equal(cpu.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens), model.GetExpertLoad().Layers.Select(static layer => layer.ExpertTokens));
            output.WriteLine($"{_gpu.Driver.PeakBytes:N0} of {limit:N0} bytes");
            Assert.InRange(_gpu.Driver.PeakBytes, limit / 2, limit);
        }
        var lines = log.Lines.Where(static line => line.Contains("stay on the CPU", StringComparison.Ordinal)).ToArray();
        Assert.Equal(away == 0 ? 0 : 1, lines.Length);
        if (away > 0) Assert.Contains($"{plan.CpuWeightBytes:N0} bytes of weights stay on the CPU and are computed there, because {limit:N0} bytes of GPU memory are too few for all: experts {plan.DescribeCpuExperts()}.", lines[0], StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData(ErniePrecision.Int4)]
    [InlineData(ErniePrecision.Int2)]
    public async Task QuantisedExperts_OnBothSides_GiveTheCpusLogits(ErniePrecision experts)
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("model");
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, path, new ErnieExportOptions { Experts = experts, Dense = ErniePrecision.Int8, Calibrate = experts == ErniePrecision.Int2 }, cancellationToken: Token);
        var limit = _gpu.WithoutExperts(path, LimitedGpu.ExpertsOfLayer + 3) - 1;
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        // Short: what is left free is less than an expert.
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, [.. LimitedGpu.Prompt.Take(3)], Token), await LimitedGpu.Answer(cpu, LimitedGpu.Prompt));
        await using (var model = await _gpu.LoadAsync(path, limit))
        {
            var logits = await LoadedModels.LogitsAsync(model, [.. LimitedGpu.Prompt.Take(3)], Token);
            output.WriteLine($"{experts}: largest difference {Golden.MaxDifference(logits, expected):E2} of {expected.Max(Math.Abs):F1}");
            // Activations are quantised too, and one on the edge between two codes may fall either way.
            TensorAssert.Near(expected, logits, 0.3, 0, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            Assert.InRange(_gpu.Driver.PeakBytes, 1, limit);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task NothingFits_IsOneException_ThatNamesTheLeastThatWouldDo()
    {
        var path = await TinyModel.ExportedAsync();
        var least = _gpu.Plan(path).LeastBytes;
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => _gpu.LoadAsync(path, least - 1));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains($"of which GpuMemoryBytes allows {least - 1:N0}; with all layers but the last on the CPU the model still takes at least {least:N0}", e.Message, StringComparison.Ordinal);
        Assert.Contains($"Set GpuMemoryBytes to {least:N0} or more.", e.Cure, StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
        await using (var model = await _gpu.LoadAsync(path, least))
        {
            Assert.Equal(4, (await LimitedGpu.Answer(model, LimitedGpu.Prompt)).Count);
            Assert.InRange(_gpu.Driver.PeakBytes, 1, least);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData(null)]
    [InlineData(1L)]
    public async Task ACacheLargerThanAnyMemory_IsOneException(long? limit)
    {
        var path = await TinyModel.ExportedAsync();
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => _gpu.LoadAsync(path, limit, configure: static options => (options.ContextLength, options.KvCacheBytes) = (null, long.MaxValue)));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains("a smaller KvCacheBytes", e.Cure, StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task ASmallGpu_IsFilledBesideItsReserve()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.WithoutExperts(path, 5);
        // Of all memory, 1 GiB and 2 % are the reserve.
        var total = (limit + (1L << 30)) * 50 / 49 + 50;
        _gpu.Driver.Describe(bytes: total);
        var log = new RecordedLog();
        await using (var model = await _gpu.LoadAsync(path, null, log, static options => options.Device = ErnieDevice.Auto))
        {
            Assert.Contains(log.Lines, static line => line.Contains("experts 1 of layers 1-3, 2 of layer 4", StringComparison.Ordinal));
            Assert.Equal(4, (await LimitedGpu.Answer(model, LimitedGpu.Prompt)).Count);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task WithoutAContextLength_ThereIsRoomForAConversation()
    {
        var path = await TinyModel.ExportedAsync();
        void Unasked(ErnieModelOptions options) => options.ContextLength = null;
        var limit = LimitedGpu.Needed(_gpu.Plan(path, context: 8192)) - LimitedGpu.ExpertBytes(path);
        var log = new RecordedLog();
        await using var model = await _gpu.LoadAsync(path, limit, log, configure: Unasked);
        Assert.Contains(log.Lines, static line => line.Contains("experts 1 of layer 4", StringComparison.Ordinal));
        Assert.Equal(8192, model.ContextLength);
        Assert.Equal(4, (await LimitedGpu.Answer(model, LimitedGpu.Prompt)).Count);
        Assert.InRange(_gpu.Driver.PeakBytes, 1, limit);
    }

    [Fact]
    public async Task CancelledAndFailedSteps_AreFollowedByOthers()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = _gpu.Plan(path).LeastBytes;
        await using (var model = await _gpu.LoadAsync(path, limit))
        {
            var expected = await LimitedGpu.Answer(model, LimitedGpu.Prompt);
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync(LimitedGpu.Prompt, new ErnieGenerationOptions { MaxTokens = 200, IgnoreStopTokens = true }, source.Token)) await source.CancelAsync();
            });
            Assert.Equal(expected, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            _gpu.Driver.Fail("cuMemcpyDtoHAsync_v2", (CudaResult)700, 2);
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
        var limit = _gpu.Plan(path).LeastBytes;
        foreach (var (call, nth) in new[] { ("cuMemHostRegister_v2", 1), ("cuMemHostRegister_v2", 3), ("cuEventCreate", 1), ("cuMemAlloc_v2", 3), ("cuMemAlloc_v2", 5) })
        {
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
            await Assert.ThrowsAsync<ErnieDeviceException>(() => _gpu.LoadAsync(path, limit));
            _gpu.Driver.AssertNothingIsLeft();
        }
    }
}
