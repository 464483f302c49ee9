using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Several sessions of emulated GPUs at once: on two GPUs, of which each leaves its own the thread's, and on one, each with a limit of its own.</summary>
[Collection(FakeCuda.Collection)]
public sealed class EmulatedGpusTests(ITestOutputHelper output) : IDisposable
{
    private const int Sequences = 2, Context = 256, Chunk = 128;
    // As large as a step may be, so that it takes what was planned for.
    private static readonly int[] s_prompt = LoadedModels.Ids(5, Chunk);

    private EmulatedGpu? _gpu;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => _gpu?.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TwoGpus_StepInTurn_AsEachDoesAlone(bool graphs)
    {
        _gpu = new EmulatedGpu(2);
        var folder = await TinyModel.ExportedAsync();
        var driver = _gpu.Driver;
        var expected = Steps(Runner(folder, 0, graphs: false));
        driver.AssertNothingIsLeft();
        Assert.Equal((0, 0), (driver.UsedBytesOf(1), driver.PeakBytesOf(1)));

        var actual = Steps(Runner(folder, 0, graphs), Runner(folder, 1, graphs), Runner(folder, 1, graphs: false));
        Assert.Equal(graphs ? 2 : 0, driver.Graphs.Captured);
        for (var runner = 0; runner < 3; runner++) TensorAssert.SameBits(expected[0], actual[runner], $"logits of runner {runner}");
        output.WriteLine($"{driver.PeakBytesOf(0):N0} and {driver.PeakBytesOf(1):N0} bytes");
        // The second GPU had two of them.
        Assert.InRange(driver.PeakBytesOf(1), driver.PeakBytesOf(0) * 3 / 2, driver.PeakBytesOf(0) * 5 / 2);
        driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData("3", "CUDA failure 101: invalid device ordinal")]
    [InlineData("0", "CUDA failure 400: invalid resource handle")] // the stream is the other GPU's
    public async Task AGpuThatIsNotThere_OrNotTheStreams_IsRefused(string gpu, string failure)
    {
        _gpu = new EmulatedGpu(2);
        var folder = await TinyModel.ExportedAsync();
        var choice = Choice(folder, 1);
        var installation = choice.Installation with
        {
            Append = (options, settings) =>
            {
                settings["device_id"] = gpu;
                choice.Installation.Append(options, settings);
            },
        };
        var e = Assert.ThrowsAny<Exception>(() => Runner(folder, choice with { Installation = installation }, graphs: false));
        Assert.Contains(failure, e.ToString(), StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task TwoModelsOfOneGpu_HaveALimitEach()
    {
        _gpu = new EmulatedGpu();
        var driver = _gpu.Driver;
        var folder = await TinyModel.ExportedAsync();
        var plan = ErniePlan.ForModel(folder, new ErniePlanOptions { GpuBytes = 8L << 30, ReserveBytes = 0, ContextLength = Context, KvCacheType = ErnieKvCacheType.Float32, PrefillChunkTokens = Chunk }).Gpus[0];
        var all = plan.WeightBytes + plan.KvCacheBytes + plan.WorkspaceBytes;
        // What a part needs of a model: a third of its weights stays on the CPU.
        var (large, small) = (all, all - plan.WeightBytes / 3);
        List<int> answer;
        await using (var cpu = await Load(folder, null)) answer = await Answer(cpu);

        driver.ForgetPeak();
        await using (var first = await Load(folder, large))
        {
            Assert.Equal(answer, await Answer(first));
            var alone = driver.PeakBytes;
            Assert.InRange(alone, small + 1, large);
            await using (var second = await Load(folder, small))
            {
                Assert.Equal(answer, await Answer(first));
                Assert.Equal(answer, await Answer(second));
                foreach (var one in await Task.WhenAll(Answer(first), Answer(second), Answer(first), Answer(second))) Assert.Equal(answer, one);
                output.WriteLine($"{alone:N0} of {large:N0} bytes, with the second model {driver.PeakBytes:N0} of {large + small:N0}");
                Assert.InRange(driver.PeakBytes, large, large + small);
                await first.DisposeAsync();
                driver.ForgetPeak();
                Assert.Equal(answer, await Answer(second));
                Assert.InRange(driver.PeakBytes, small / 2, small);
            }
        }
        driver.AssertNothingIsLeft();
    }

    /// <summary>Of each runner the logits [steps, sequences, vocabulary], from steps in turn on one thread. Disposes them.</summary>
    private static List<float[]> Steps(params ModelRunner[] runners)
    {
        var logits = runners.Select(static _ => new List<float>()).ToList();
        int[][] prompts = [.. Enumerable.Range(0, Sequences).Select(static s => LoadedModels.Ids(s, 3 + s))];
        var batch = new StepBatch();
        for (var step = 0; step < 4; step++)
        {
            for (var r = 0; r < runners.Length; r++)
            {
                if (step == 0) for (var s = 0; s < Sequences; s++) runners[r].Cache.Allocate();
                batch.Clear();
                for (var s = 0; s < Sequences; s++)
                {
                    if (step == 0) batch.Add(prompts[s], 0, [s], SequenceFlags.None, SparseLimits.Dense, 1);
                    else batch.Add([50 * step + s], prompts[s].Length + step - 1, [s], SequenceFlags.Decode, SparseLimits.Dense, 1);
                }
                logits[r].AddRange(runners[r].Run(batch));
            }
        }
        foreach (var runner in runners) runner.Dispose();
        return [.. logits.Select(static all => all.ToArray())];
    }

    private GpuChoice Choice(string folder, int gpu)
    {
        var options = new ErnieModelOptions { Device = ErnieDevice.Cuda, KvCacheType = ErnieKvCacheType.Float32, PrefillChunkTokens = Chunk, MaxConcurrentRequests = Sequences };
        return DeviceChoice.Resolve(folder, options, _gpu!.Installation, null)! with { Devices = [_gpu.Driver.Driver.Devices()[gpu]] };
    }

    private ModelRunner Runner(string folder, int gpu, bool graphs) => Runner(folder, Choice(folder, gpu), graphs);

    private static ModelRunner Runner(string folder, GpuChoice gpu, bool graphs) =>
        new(folder, ModelManifest.Read(folder), KvElementType.Float32, Sequences, 2, model => [new GpuDevice(gpu, 0, model, KernelRegistry.Choose(), 2, graphs, overlaps: false)]);

    private Task<ErnieModel> Load(string folder, long? limit)
    {
        var options = new ErnieModelOptions { Threads = 2, KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = null, ContextLength = Context, MaxConcurrentRequests = 1, PrefillChunkTokens = Chunk };
        if (limit is not null) (options.Device, options.Installation, options.GpuMemoryBytes) = (ErnieDevice.Cuda, _gpu!.Installation, limit);
        return ErnieModel.LoadAsync(folder, options, cancellationToken: Token);
    }

    private static Task<List<int>> Answer(ErnieModel model) =>
        model.GenerateAsync(s_prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, Token).ToListAsync(Token).AsTask();
}
