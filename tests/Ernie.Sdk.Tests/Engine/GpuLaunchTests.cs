using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What a step of the shipped model launches on an emulated GPU.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuLaunchTests(ITestOutputHelper output) : IDisposable
{
    private readonly EmulatedGpu _gpu = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu.Dispose();

    [Fact]
    public async Task KernelsThatOverlap_GiveTheSameBits()
    {
        var prompt = LoadedModels.Ids(1, 9);
        var expected = await Answer(overlap: false, prompt);
        Assert.Equal(0, _gpu.Driver.Overlapping);
        var before = _gpu.Driver.Launches;
        Assert.Equal(expected, await Answer(overlap: true, prompt));
        output.WriteLine($"{_gpu.Driver.Overlapping} of {_gpu.Driver.Launches - before} launches");
        Assert.Equal(_gpu.Driver.Launches - before, _gpu.Driver.Overlapping);
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>Each layer of experts: a norm; q|k|v; rotation and append, attention, its sum; o; a norm; router, choice and grouping, gates and ups, down, sum; shared gates and ups, shared down.</summary>
    private const int ExpertLayer = 14;
    /// <summary>The same up to the second norm; gates and ups, down.</summary>
    private const int PlainLayer = 9;
    /// <summary>Scores and selection, where attention is sparse.</summary>
    private const int Selection = 2;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ADecodeStepOfInt4_LaunchesFourteenKernelsForALayerOfExperts_AndTwoMoreToSelect(bool isSparse)
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("tiny");
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, path, new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int4, Calibrate = false }, cancellationToken: Token);
        var manifest = ModelManifest.Read(path);
        var config = manifest.Config;
        Assert.True(config.SharedExpertCount > 0);
        await using var model = await ErnieModel.LoadAsync(path, new ErnieModelOptions { Device = ErnieDevice.Cuda, Installation = _gpu.Installation, KvCacheBytes = 8 << 20, PrefixCacheBytes = 0, SparseAttention = isSparse ? new ErnieSparseAttention { DecoderTopKLeft = 1, DecoderTopKRight = 1 } : new ErnieSparseAttention() }, cancellationToken: Token);
        async Task<int> Launches(int tokens)
        {
            var before = _gpu.Driver.Launches;
            await model.GenerateTokensAsync(LoadedModels.Ids(1, 130), new ErnieGenerationOptions { Temperature = 0, MaxTokens = tokens, IgnoreStopTokens = true }, null, 0, Token).CountAsync(Token);
            return _gpu.Driver.Launches - before;
        }
        var step = await Launches(4) - await Launches(3);
        var waits = _gpu.Driver.Waits;
        await Launches(3);
        // The prompt's step and two more are waited for once each, with the tokens.
        Assert.Equal((waits.Own + 3, waits.Provider), _gpu.Driver.Waits);
        output.WriteLine($"{step} launches");
        // Beside the layers: what a step consists of, the last norm, the head's input and the head, the choice of a token.
        Assert.Equal(ExpertLayer * config.MoeLayerCount + PlainLayer * (config.LayerCount - config.MoeLayerCount) + (isSparse ? Selection * config.LayerCount : 0) + 5, step);
    }

    private async Task<List<(int Token, float LogProbability)>> Answer(bool overlap, int[] prompt)
    {
        await using var model = await TinyModel.LoadAsync(options =>
            (options.Device, options.Installation, options.KvCacheBytes, options.CudaOverlap, options.PrefixCacheBytes) = (ErnieDevice.Cuda, _gpu.Installation, 8 << 20, overlap, 0));
        return await model.GenerateTokensAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, null, 0, Token).Select(static token => (token.Id, token.Probabilities!.Chosen)).ToListAsync(Token);
    }
}
