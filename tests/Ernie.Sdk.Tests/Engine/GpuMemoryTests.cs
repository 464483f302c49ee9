using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>An emulated GPU whose memory fills up, or that fails, while a model is loaded and while it runs.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuMemoryTests : IDisposable
{
    private static readonly int[] s_prompt = [1, 17, 300];

    private readonly EmulatedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Fact]
    public unsafe void DeviceMemory_IsOutOfTheCpusReach()
    {
        using var folder = new TemporaryFolder();
        using (var context = _gpu.Driver.Device().Retain())
        using (var memory = context.Allocate(4096))
        using (var file = File.OpenHandle(folder.File("none"), FileMode.Create, FileAccess.Write))
        {
            // The system copies from a range of addresses, and says so where it may not.
            var address = memory.Address;
            Assert.Throws<IOException>(() => RandomAccess.Write(file, new ReadOnlySpan<byte>((void*)address, 4096), 0));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData("cuMemAlloc_v2", 3)]
    [InlineData("cudaMalloc", 1)]
    public async Task WhileLoading_IsOneException_AndNothingIsLeft(string call, int least)
    {
        var failures = 0;
        // Each allocation in turn, with a stride that keeps the test short: angles, cache, weights; or what ONNX Runtime keeps, which is the embedding.
        for (var nth = 1; ; nth += failures < 3 ? 1 : 9)
        {
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
            try
            {
                await using var model = await Load();
                break;
            }
            catch (ErnieDeviceException e)
            {
                failures++;
                Assert.Equal("GPU memory", e.Piece);
                Assert.Contains("no room for", e.Message, StringComparison.Ordinal);
                Assert.Contains("KvCacheBytes", e.Cure, StringComparison.Ordinal);
            }
            _gpu.Driver.AssertNothingIsLeft();
        }
        Assert.True(failures >= least, $"{failures} failures");
        _gpu.Driver.Fail("", CudaResult.Success);
        await AssertItWorks();
    }

    [Fact]
    public async Task ACacheThatDoesNotFit_IsTold()
    {
        // Of five layers, one has to be on the GPU with its cache.
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(static options => options.KvCacheBytes = 45L << 30));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains(" 9,66", e.Message, StringComparison.Ordinal);
        Assert.Contains("of cache for", e.Message, StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData("cuMemAlloc_v2", 1)] // what requests want of a token, the tokens, and the workspace of choosing them
    [InlineData("cuMemAlloc_v2", 2)]
    [InlineData("cuMemAlloc_v2", 3)]
    [InlineData("cudaMalloc", 1)] // a number of the step
    [InlineData("cudaMalloc", 9)] // activations
    [InlineData("cudaMalloc", 10)]
    [InlineData("cudaMalloc", 11)]
    [InlineData("cudaMalloc", 40)]
    public async Task InARequest_EndsThatRequest_AndTheNextOneRuns(string call, int nth)
    {
        await using (var model = await Load())
        {
            // The first step is the one that takes memory.
            _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
            var e = await Assert.ThrowsAsync<InsufficientMemoryException>(async () => await Answer(model));
            Assert.Contains("no memory left for this step", e.Message, StringComparison.Ordinal);
            Assert.Equal(3, (await Answer(model)).Count);
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AKernelThatFails_EndsItsRequests()
    {
        await using (var model = await Load())
        {
            _gpu.Driver.Fail("cuLaunchKernel", (CudaResult)700, 20);
            var e = await Assert.ThrowsAsync<InvalidOperationException>(async () => await Answer(model));
            Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", e.Message, StringComparison.Ordinal);
            // What was asked before may be under way still, in blocks that others get next.
            var calls = _gpu.Driver.Calls;
            Assert.True(Array.LastIndexOf(calls, "cuStreamSynchronize") > Array.LastIndexOf(calls, "cuLaunchKernel"));
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Weights_AreSentWithProgress_AndSendingCanBeCancelled()
    {
        var seen = new List<ErnieProgress>();
        await using (var model = await Load(progress: new DirectProgress<ErnieProgress>(seen.Add)))
        {
            Assert.Equal("loaded", seen[^1].Stage);
            var sent = seen.Where(static p => p.Stage == "sending weights to the GPU").ToList();
            Assert.True(sent.Count > 20, $"{sent.Count} reports");
            Assert.Equal(sent.Select(static p => p.BytesDone).Order(), sent.Select(static p => p.BytesDone));
            Assert.InRange(sent[^1].BytesDone, sent[^1].BytesTotal / 2, sent[^1].BytesTotal);
        }
        using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Load(progress: new DirectProgress<ErnieProgress>(_ => source.Cancel()), cancellationToken: source.Token));
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task WhatOnlyTheCpuHas_IsRefused()
    {
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(() => Load(static options => options.ExpertPrefetch = ErnieExpertPrefetch.On));
        Assert.Contains("ExpertPrefetch", e.Message, StringComparison.Ordinal);
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { HeadDim = 20 }.Write(folder.File("odd"));
        e = await Assert.ThrowsAsync<ErnieDeviceException>(() => ErnieModel.LoadAsync(folder.File("odd"), new ErnieModelOptions { Device = ErnieDevice.Cuda, Installation = _gpu.Installation }, cancellationToken: Token));
        Assert.Equal("CUDA kernels", e.Piece);
        Assert.Contains("those of the model 20", e.Message, StringComparison.Ordinal);
    }

    private async Task AssertItWorks()
    {
        await using (var model = await Load()) Assert.Equal(3, (await Answer(model)).Count);
        _gpu.Driver.AssertNothingIsLeft();
    }

    private static async Task<List<int>> Answer(ErnieModel model) =>
        await model.GenerateAsync(s_prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 3, IgnoreStopTokens = true }, Token).ToListAsync(Token);

    private async Task<ErnieModel> Load(Action<ErnieModelOptions>? configure = null, IProgress<ErnieProgress>? progress = null, CancellationToken? cancellationToken = null)
    {
        var options = new ErnieModelOptions { Device = ErnieDevice.Cuda, Installation = _gpu.Installation, KvCacheBytes = 2 << 20, Threads = 2 };
        configure?.Invoke(options);
        return await ErnieModel.LoadAsync(await TinyModel.ExportedAsync(), options, progress, cancellationToken ?? Token);
    }
}
