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

    private async Task<List<(int Token, float LogProbability)>> Answer(bool overlap, int[] prompt)
    {
        await using var model = await TinyModel.LoadAsync(options =>
            (options.Device, options.Installation, options.KvCacheBytes, options.CudaOverlap, options.PrefixCacheBytes) = (ErnieDevice.Cuda, _gpu.Installation, 8 << 20, overlap, 0));
        return await model.GenerateTokensAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, null, 0, Token).Select(static token => (token.Id, token.Probabilities!.Chosen)).ToListAsync(Token);
    }
}
