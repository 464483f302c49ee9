using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model on an emulated GPU that is too small for it: experts stay on the CPU, the results do not change, and no more memory is taken than was allowed.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuOffloadTests(ITestOutputHelper output) : IDisposable
{
    /// <summary>As <see cref="GpuModelTests"/> has it: kernels of both devices sum the same products in float, in other orders.</summary>
    private const double Tolerance = 3e-4;
    /// <summary>For logits of every token of a text, which only tests and commands look at. Less than an expert has.</summary>
    private const long Slack = 128 << 10;
    private const int Context = 512, Chunk = 128, ExpertsOfLayer = 8, Layers = 4;
    private static readonly int[] s_prompt = [1, 17, 300, 42, 9, 1200, 77];

    private readonly EmulatedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(ExpertsOfLayer)]
    [InlineData(ExpertsOfLayer + 3)]
    [InlineData(Layers * ExpertsOfLayer)]
    public async Task ExpertsThatDoNotFit_AreComputedOnTheCpu_AsPlanned(int away)
    {
        var path = await TinyModel.ExportedAsync();
        var limit = Needed(Plan(path, 8L << 30)) - away * ExpertBytes(path) + Slack;
        var plan = Plan(path, limit);
        Assert.Equal(away, plan.CpuExperts.Values.Sum());
        await using var cpu = await TinyModel.LoadAsync(Configure);
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, s_prompt, Token), await Answer(cpu, LoadedModels.Ids(1, 150)));
        var log = new RecordedLog();
        await using (var model = await Load(path, limit, log))
        {
            var logits = await LoadedModels.LogitsAsync(model, s_prompt, Token);
            output.WriteLine($"{away} experts on the CPU: largest difference {Golden.MaxDifference(logits, expected):E2}");
            TensorAssert.Near(expected, logits, Tolerance, Tolerance, "logits");
            Assert.Equal(answer, await Answer(model, LoadedModels.Ids(1, 150)));
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
        var limit = Needed(Plan(path, 8L << 30)) - (ExpertsOfLayer + 3) * ExpertBytes(path) - 1;
        var options = new ErnieModelOptions { Threads = 2 };
        Configure(options);
        await using var cpu = await ErnieModel.LoadAsync(path, options, cancellationToken: Token);
        // Short: what is left free is less than an expert.
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, s_prompt[..3], Token), await Answer(cpu, s_prompt));
        await using (var model = await Load(path, limit))
        {
            var logits = await LoadedModels.LogitsAsync(model, s_prompt[..3], Token);
            output.WriteLine($"{experts}: largest difference {Golden.MaxDifference(logits, expected):E2} of {expected.Max(Math.Abs):F1}");
            // Activations are quantised too, and one on the edge between two codes may fall either way.
            TensorAssert.Near(expected, logits, 0.3, 0, "logits");
            Assert.Equal(answer, await Answer(model, s_prompt));
            Assert.InRange(_gpu.Driver.PeakBytes, 1, limit);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task NothingFits_IsOneException_ThatNamesTheLeastThatWouldDo()
    {
        var path = await TinyModel.ExportedAsync();
        var least = Plan(path, 8L << 30).LeastBytes;
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, least - 1));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains($"of which GpuMemoryBytes allows {least - 1:N0}; with all layers but the last on the CPU the model still takes at least {least:N0}", e.Message, StringComparison.Ordinal);
        Assert.Contains($"Set GpuMemoryBytes to {least:N0} or more.", e.Cure, StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
        await using (var model = await Load(path, least))
        {
            Assert.Equal(4, (await Answer(model, s_prompt)).Count);
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
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, limit, configure: static options => (options.ContextLength, options.KvCacheBytes) = (null, long.MaxValue)));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains("a smaller KvCacheBytes", e.Cure, StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task ASmallGpu_IsFilledBesideItsReserve()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = Needed(Plan(path, 8L << 30)) - 5 * ExpertBytes(path);
        // Of all memory, 1 GiB and 2 % are the reserve.
        var total = (limit + (1L << 30)) * 50 / 49 + 50;
        _gpu.Driver.Describe(bytes: total);
        var log = new RecordedLog();
        await using (var model = await Load(path, null, log, ErnieDevice.Auto))
        {
            Assert.Contains(log.Lines, static line => line.Contains("experts 1 of layers 1-3, 2 of layer 4", StringComparison.Ordinal));
            Assert.Equal(4, (await Answer(model, s_prompt)).Count);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task WithoutAContextLength_ThereIsRoomForAConversation()
    {
        var path = await TinyModel.ExportedAsync();
        void Unasked(ErnieModelOptions options) => options.ContextLength = null;
        var limit = Needed(Plan(path, 8L << 30, 8192)) - ExpertBytes(path);
        var log = new RecordedLog();
        await using var model = await Load(path, limit, log, configure: Unasked);
        Assert.Contains(log.Lines, static line => line.Contains("experts 1 of layer 4", StringComparison.Ordinal));
        Assert.Equal(8192, model.ContextLength);
        Assert.Equal(4, (await Answer(model, s_prompt)).Count);
        Assert.InRange(_gpu.Driver.PeakBytes, 1, limit);
    }

    [Fact]
    public async Task CancelledAndFailedSteps_AreFollowedByOthers()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = Plan(path, 8L << 30).LeastBytes;
        await using (var model = await Load(path, limit))
        {
            var expected = await Answer(model, s_prompt);
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync(s_prompt, new ErnieGenerationOptions { MaxTokens = 200, IgnoreStopTokens = true }, source.Token)) await source.CancelAsync();
            });
            Assert.Equal(expected, await Answer(model, s_prompt));
            _gpu.Driver.Fail("cuMemcpyDtoHAsync_v2", (CudaResult)700, 2);
            var e = await Assert.ThrowsAsync<InvalidOperationException>(async () => await Answer(model, s_prompt));
            Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", e.Message, StringComparison.Ordinal);
            Assert.Equal(expected, await Answer(model, s_prompt));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task MemoryThatRunsOutWhileLoading_LeavesNothing()
    {
        var path = await TinyModel.ExportedAsync();
        var limit = Plan(path, 8L << 30).LeastBytes;
        foreach (var (call, nth) in new[] { ("cuMemHostRegister_v2", 1), ("cuMemHostRegister_v2", 3), ("cuEventCreate", 1), ("cuMemAlloc_v2", 3), ("cuMemAlloc_v2", 5) })
        {
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
            await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(path, limit));
            _gpu.Driver.AssertNothingIsLeft();
        }
    }

    /// <summary>What <c>ernie plan</c> says of a model that is loaded as these tests load it.</summary>
    private static ErniePlan Plan(string path, long bytes, int context = Context) =>
        ErniePlan.ForModel(path, new ErniePlanOptions { GpuBytes = bytes, ReserveBytes = 0, ContextLength = context, KvCacheType = ErnieKvCacheType.Float32, PrefillChunkTokens = Chunk });

    private static long Needed(ErniePlan plan) => plan.Gpus[0].WeightBytes + plan.Gpus[0].KvCacheBytes + plan.Gpus[0].WorkspaceBytes;

    private static long ExpertBytes(string path)
    {
        var (config, formats) = ErniePlan.Read(path, new ErnieExportOptions());
        return MemoryPlan.For(config, formats, Sdk.Kernels.KvElementType.Float32, 1).ExpertBytes / Layers / ExpertsOfLayer;
    }

    private static void Configure(ErnieModelOptions options) => (options.KvCacheType, options.KvCacheBytes, options.ContextLength, options.MaxConcurrentRequests, options.PrefillChunkTokens) = (ErnieKvCacheType.Float32, null, Context, 1, Chunk);

    private Task<ErnieModel> Load(string path, long? limit, RecordedLog? log = null, ErnieDevice device = ErnieDevice.Cuda, Action<ErnieModelOptions>? configure = null)
    {
        var options = new ErnieModelOptions { Device = device, Installation = _gpu.Installation, GpuMemoryBytes = limit, Threads = 2, LoggerFactory = log?.Factory };
        Configure(options);
        configure?.Invoke(options);
        _gpu.Driver.ForgetPeak();
        return ErnieModel.LoadAsync(path, options, cancellationToken: Token);
    }

    private static Task<List<int>> Answer(ErnieModel model, int[] prompt) =>
        model.GenerateAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, Token).ToListAsync(Token).AsTask();
}
