using Ernie.Sdk.Engine;
using Ernie.Sdk.Native;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Whole models on a GPU that is emulated: what is computed, what is kept in its memory, and what happens where that is full.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuModelTests : IDisposable
{
    /// <summary>Between kernels of the CPU and of the GPU, on logits of order 10: both sum products of bf16 weights in float, in other orders.</summary>
    private const double Tolerance = 1e-3;
    private static readonly int[] s_prompt = [1, 17, 300, 42, 9, 1200, 77];

    private readonly EmulatedGpu _gpu = new();

    public void Dispose() => _gpu.Dispose();

    [Fact]
    public async Task Prefill_HasTheCpusLogits()
    {
        await using var cpu = await TinyModel.LoadAsync();
        var expected = await Logits(cpu, s_prompt);
        await using (var model = await Load())
        {
            var logits = await Logits(model, s_prompt);
            TensorAssert.Near(expected, logits, Tolerance, Tolerance, "logits");
            Assert.True(_gpu.Driver.Launches > 50, $"{_gpu.Driver.Launches} launches");
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    private Task<ErnieModel> Load(Action<ErnieModelOptions>? configure = null) => TinyModel.LoadAsync(options =>
    {
        options.Device = ErnieDevice.Cuda;
        options.Installation = _gpu.Installation;
        options.KvCacheBytes = 8 << 20;
        configure?.Invoke(options);
    });

    private static async Task<float[]> Logits(ErnieModel model, int[] ids)
    {
        var all = new float[ids.Length * model.VocabularySize];
        await model.ScoreAsync(ids, (first, logits) => logits.CopyTo(all.AsSpan(first * model.VocabularySize)), TestContext.Current.CancellationToken);
        return all;
    }
}
