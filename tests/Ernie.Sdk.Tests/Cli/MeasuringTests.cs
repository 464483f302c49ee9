using Ernie.Cli.Measuring;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>The instruments of the benchmarks.</summary>
public sealed class MeasuringTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>
{
    [Fact]
    public async Task Meter_CountsTheTensorsThatAStepReads()
    {
        using var meter = new MeteredKernels(KernelRegistry.Choose());
        var token = TestContext.Current.CancellationToken;
        await using var model = await ErnieModel.LoadAsync(tiny.Model, new ErnieModelOptions { Kernels = meter, KvCacheType = ErnieKvCacheType.Float32 }, cancellationToken: token);
        int[] prompt = [13, 336, 1446, 331, 1207];
        var options = new ErnieGenerationOptions { MaxTokens = 4, IgnoreStopTokens = true, Temperature = 0 };
        await foreach (var _ in model.GenerateAsync(prompt, options, token))
        {
        }

        var (steps, touched) = meter.Take();
        Assert.Equal([5, 1, 1, 1], steps.Select(static s => s.Tokens));
        Assert.Equal([false, true, true, true], steps.Select(static s => s.IsDecode));
        var manifest = ModelManifest.Read(tiny.Model);
        var c = manifest.Config;
        var experts = manifest.Tensors.Where(static t => t.Name.Contains(".experts.", StringComparison.Ordinal)).ToArray();
        // Everything but routed experts; the tied embedding is the head.
        var always = manifest.Tensors.Except(experts).Sum(static t => t.Bytes);
        Assert.All(steps.Skip(1), s =>
        {
            Assert.Equal(c.MoeLayerCount * c.ExpertsPerToken, s.DistinctExperts);
            Assert.Equal(always + experts.Sum(static t => t.Bytes) * c.ExpertsPerToken / c.ExpertCount, s.WeightBytes);
        });
        Assert.InRange(steps[0].DistinctExperts, c.MoeLayerCount * c.ExpertsPerToken, c.MoeLayerCount * Math.Min(c.ExpertCount, 5 * c.ExpertsPerToken));
        Assert.Equal([5, 6, 7, 8], steps.Select(s => s.CacheBytes / (2L * c.LayerCount * c.KvHeadCount * c.HeadDim * sizeof(float))));
        Assert.InRange(touched, c.ExpertsPerToken, c.ExpertCount);
        Assert.Empty(meter.Take().Steps);
    }

    [Fact]
    public void Meter_ChangesNoBit()
    {
        using var meter = new MeteredKernels(KernelRegistry.Choose());
        Assert.Equal(KernelRegistry.Choose().Name, meter.Name);
        Assert.True(meter.IsSupported);
        using var experts = new ExpertsCase(3, tokens: 5, hidden: 64, intermediate: 32, experts: 6, perToken: 2, WeightFormat.Int4(32));
        // It brings a place for the router's choices where the caller has none.
        var alone = experts.Run(KernelRegistry.Choose(), SerialRunner.Instance, 0, 5, 0, 6, optionalOutputs: false);
        var metered = experts.Run(meter, SerialRunner.Instance, 0, 5, 0, 6, optionalOutputs: false);
        Assert.Equal(alone.Output, metered.Output);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Probes_MeasureSomething(int threads)
    {
        var runner = new TaskRunner(threads);
        using var bandwidth = new ReadBandwidthProbe(runner);
        var reading = MachineReading.Take(bandwidth, runner, count: 1);
        foreach (var rate in new[] { reading.ReadOneThread, reading.ReadAllThreads, reading.Float, reading.Int8 ?? 1e9 }) Assert.InRange(rate, 1e6, 1e15);
        Assert.Equal(System.Runtime.Intrinsics.X86.Avx2.IsSupported, reading.Int8 is not null);
    }

    [Fact]
    public void Memory_ReadsTheStatusOfAProcess()
    {
        var memory = ProcessMemory.Parse(["Name:\ternie", "VmHWM:\t    3000 kB", "RssAnon:\t    1000 kB", "RssFile:\t     500 kB"]);
        Assert.Equal(new ProcessMemory(1000 * 1024, 500 * 1024, 3000 * 1024), memory);
        Assert.Throws<InvalidDataException>(() => ProcessMemory.Parse(["Name:\ternie"]));
        Assert.True(ProcessMemory.Now().Private > 1 << 20);
    }

    [Fact]
    public async Task Memory_PeakOfWork_SeesWhatWasTakenAndGivenBack()
    {
        const int bytes = 64 << 20;
        var before = ProcessMemory.Now().Private;
        var peak = await ProcessMemory.PeakPrivateDuringAsync(async () =>
        {
            using var block = new NativeMemoryBlock(bytes).FillFloat(1, 1, SerialRunner.Instance);
            await Task.Delay(200, TestContext.Current.CancellationToken);
        });
        Assert.True(peak - before > bytes / 2);
    }

    [Fact]
    public void Median_OfAnEvenNumber_IsTheLowerOfTheMiddle() => Assert.Equal([2, 3], [Median.Of([4, 1, 2, 9]), Median.Of([9, 3, 1])]);
}
