using System.Text.Json;
using Ernie.Cli.Measuring.Cards;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Cli;

/// <summary><c>ernie bench</c> on a GPU that is emulated. No figure is asserted that depends on the machine's speed.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuBenchCommandTests : IDisposable
{
    private readonly EmulatedGpu _gpu = new(3);

    // Little more than the reserve, so that probes are small.
    public GpuBenchCommandTests() => _gpu.Driver.Describe(3, bytes: 1400L << 20);

    public void Dispose() => _gpu.Dispose();

    [Fact]
    public async Task Bench_StandsBesideWhatTheCardCopies()
    {
        using var folder = new TemporaryFolder();
        var run = (await CommandRun.Async(_gpu.Installation, "bench", await TinyModel.ExportedAsync(), "--device", "cuda", "--runs", "1", "--tokens", "3", "--sequences", "1,2", "--prefill", "20", "--json", folder.File("b.json"), "--plot", folder.File("b.svg"))).Succeeded();
        Assert.Contains("runs on  Fake GPU 0", run.Out, StringComparison.Ordinal);
        Assert.Contains("the card copies", run.Out, StringComparison.Ordinal);
        using var json = JsonDocument.Parse(await File.ReadAllTextAsync(folder.File("b.json"), TestContext.Current.CancellationToken));
        var root = json.RootElement;
        Assert.Equal("cuda", root.GetProperty("kernels").GetString());
        Assert.True(root.GetProperty("card").GetProperty("copyBefore").GetDouble() > 0);
        Assert.Equal(JsonValueKind.Null, root.GetProperty("before").ValueKind);
        foreach (var decode in root.GetProperty("decode").EnumerateArray())
        {
            var sequences = decode.GetProperty("sequences").GetInt32();
            // Two of eight experts a token.
            Assert.InRange(decode.GetProperty("distinctExperts").GetDouble(), 2, 2 * sequences);
            Assert.InRange(decode.GetProperty("touchedExperts").GetDouble(), decode.GetProperty("distinctExperts").GetDouble(), 8);
            Assert.True(decode.GetProperty("readProbe").GetDouble() > 0);
        }
        var prefill = Assert.Single(root.GetProperty("prefill").EnumerateArray());
        Assert.Equal(JsonValueKind.Null, prefill.GetProperty("arithmeticProbe").ValueKind);
        Assert.True(prefill.GetProperty("copyProbe").GetDouble() > 0);
        Assert.Contains("<svg", await File.ReadAllTextAsync(folder.File("b.svg"), TestContext.Current.CancellationToken), StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task AtDepth_TellsWhichBlocksAreKept()
    {
        using var folder = new TemporaryFolder();
        var run = (await CommandRun.Async(_gpu.Installation, "bench", await TinyModel.ExportedAsync(), "--device", "cuda", "--runs", "1", "--tokens", "2", "--depth", "600", "--attention", "1/2/1/2", "--json", folder.File("d.json"))).Succeeded();
        Assert.Contains("runs on  Fake GPU 0", run.Out, StringComparison.Ordinal);
        using var json = JsonDocument.Parse(await File.ReadAllTextAsync(folder.File("d.json"), TestContext.Current.CancellationToken));
        var depth = Assert.Single(json.RootElement.GetProperty("depths").EnumerateArray());
        Assert.Equal(5, depth.GetProperty("blocks").GetInt32());
        Assert.InRange(depth.GetProperty("keptBlocks").GetDouble(), 1, 4.9);
        Assert.InRange(depth.GetProperty("keptShare").GetDouble(), 0.1, 0.99);
        Assert.True(depth.GetProperty("stepSeconds").GetDouble() > 0);
        Assert.Equal(JsonValueKind.Null, depth.GetProperty("floatProbe").ValueKind);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task TheMeter_CountsWhatTheCpusMeterCounts(int gpuCount)
    {
        var path = await TinyModel.ExportedAsync();
        var token = TestContext.Current.CancellationToken;
        int[] prompt = [13, 336, 1446, 331, 1207];
        var greedy = new ErnieGenerationOptions { MaxTokens = 4, IgnoreStopTokens = true, Temperature = 0 };
        var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 8 << 20, Threads = 2 };
        using var expected = new Ernie.Cli.Measuring.MeteredKernels(KernelRegistry.Choose());
        options.Kernels = expected;
        await using (var cpu = await ErnieModel.LoadAsync(path, options, cancellationToken: token)) await cpu.GenerateAsync(prompt, greedy, token).ToListAsync(token);
        using var meter = new CardMeter();
        meter.Attach(ModelManifest.Read(path), KvElementType.Float32);
        (options.Kernels, options.Device, options.GpuCount, options.Installation, options.Observer) = (null, ErnieDevice.Cuda, gpuCount, _gpu.Installation, meter.Observe);
        await using (var model = await ErnieModel.LoadAsync(path, options, cancellationToken: token)) await model.GenerateAsync(prompt, greedy, token).ToListAsync(token);
        var ((cpuSteps, cpuTouched), (steps, touched)) = (expected.Take(), meter.Take());
        Assert.Equal(cpuTouched, touched);
        Assert.Equal(cpuSteps.Count, steps.Count);
        foreach (var (e, s) in cpuSteps.Zip(steps))
        {
            Assert.Equal((e.Tokens, e.Sequences, e.IsDecode, e.MoeLayers, e.DistinctExperts, e.WeightBytes, e.CacheBytes), (s.Tokens, s.Sequences, s.IsDecode, s.MoeLayers, s.DistinctExperts, s.WeightBytes, s.CacheBytes));
            Assert.Equal(e.Operations, s.Operations, e.Operations * 1e-9);
        }
        Assert.Empty(meter.Take().Steps);
    }

    /// <summary>A step that is broken off between two GPUs comes again.</summary>
    [Fact]
    public async Task AStepThatEndsBetweenTwoGpus_IsNotCounted()
    {
        var manifest = ModelManifest.Read(await TinyModel.ExportedAsync());
        var batch = new StepBatch();
        batch.Add([5], 0, [0], SequenceFlags.None, SparseLimits.Dense, 1);
        // [4 layers, 1 token, 2 experts]
        int[] selected = [0, 1, 2, 3, 4, 5, 6, 7];
        using var meter = new CardMeter();
        meter.Attach(manifest, KvElementType.Float32);
        meter.Observe(batch, new LayerRange(0, 2), selected);
        meter.Observe(batch, new LayerRange(0, 2), selected);
        meter.Observe(batch, new LayerRange(3, 4), selected);
        Assert.Equal(8, Assert.Single(meter.Take().Steps).DistinctExperts);
    }
}
