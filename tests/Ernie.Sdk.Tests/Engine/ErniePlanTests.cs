using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What models take on GPUs, against published sizes and against files that the exporter wrote.</summary>
public class ErniePlanTests
{
    private const long GB = 1_000_000_000;

    /// <summary>FastDeploy's wint4: experts in 4 bits, everything else in 8, one scale for a channel. Published for four cards of 80 GB.</summary>
    private static readonly ErnieExportOptions s_wint4 = new() { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, GroupSize = ErnieExportOptions.PerChannel };

    /// <summary>The published -2Bits checkpoint, which keeps four layers of experts in 4 bits. Published for one card of 141 GB.</summary>
    private static readonly ErnieExportOptions s_twoBits = new() { Experts = ErniePrecision.Int2, Dense = ErniePrecision.Int8, GroupSize = ErnieExportOptions.PerChannel, Int4Layers = [3, 4, 5, 6] };

    [Fact]
    public void Large300B_In4Bits_TakesFourCardsOf80GB()
    {
        var plan = ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 4, Export = s_wint4 });
        Assert.InRange(plan.WeightBytes, 156.5 * GB, 157.5 * GB);
        Assert.All(plan.Gpus, static gpu => Assert.InRange(gpu.WeightBytes, 38.5 * GB, 40 * GB));
        Assert.True(plan.IsWhollyOnGpus);
        // Two hold the bytes of the weights, and nothing beside them.
        Assert.False(ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 2, ContextLength = 128, Export = s_wint4 }).IsWhollyOnGpus);
        var grouped = ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 4 });
        Assert.InRange(grouped.WeightBytes, 155 * GB, 158 * GB);
        Assert.True(grouped.IsWhollyOnGpus);
    }

    [Fact]
    public void Large300B_In2Bits_TakesOneCardOf141GB_WithOneFullContext()
    {
        var plan = ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 141 * GB, Export = s_twoBits });
        // The size that is told of it, 96 GB, is an estimate itself; this is what an export in its formats takes.
        Assert.InRange(plan.WeightBytes, 92.5 * GB, 96.5 * GB);
        // 54 layers x 8 heads x 128 x 2 bytes, keys and values: 29 GB, and the block summaries beside them.
        Assert.InRange(plan.KvCacheBytes, 28.9 * GB, 29.6 * GB);
        Assert.True(plan.IsWhollyOnGpus);
        Assert.Equal(1, plan.MaxRequests(131072));
        Assert.Equal(131072, plan.MaxContextLength(1));
        Assert.False(ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 141 * GB, Requests = 2, Export = s_twoBits }).IsWhollyOnGpus);
        Assert.True(ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 141 * GB, Requests = 2, KvCacheType = ErnieKvCacheType.Int8, Export = s_twoBits }).IsWhollyOnGpus);
    }

    /// <summary>The fewest cards by FastDeploy's documents; where more than one is needed, half of them are too few.</summary>
    [Theory]
    [InlineData(ErnieRelease.Large300B, "wint8", 80, 8)]
    [InlineData(ErnieRelease.Large300B, "wint4", 80, 4)]
    [InlineData(ErnieRelease.Large300B, "wint2", 80, 2)]
    [InlineData(ErnieRelease.Large300B, "wint2", 141, 1)]
    [InlineData(ErnieRelease.Medium21B, "wint8", 80, 1)]
    [InlineData(ErnieRelease.Medium21B, "wint8", 48, 1)]
    [InlineData(ErnieRelease.Medium21B, "wint8", 24, 2)]
    [InlineData(ErnieRelease.Medium21B, "wint4", 24, 1)]
    [InlineData(ErnieRelease.Small03B, "wint8", 24, 1)]
    public void PublishedNumbersOfCards_AreThose(ErnieRelease release, string recipe, int gigabytes, int gpuCount)
    {
        var export = recipe switch
        {
            "wint8" => new ErnieExportOptions { Experts = ErniePrecision.Int8, Dense = ErniePrecision.Int8, GroupSize = ErnieExportOptions.PerChannel },
            "wint4" => s_wint4,
            _ => s_twoBits,
        };
        ErniePlan On(int count) => ErniePlan.ForRelease(release, new ErniePlanOptions { GpuBytes = gigabytes * GB, GpuCount = count, ContextLength = 32768, Export = export });
        Assert.True(On(gpuCount).IsWhollyOnGpus);
        if (gpuCount > 1) Assert.False(On(gpuCount / 2).IsWhollyOnGpus);
    }

    [Theory]
    [InlineData("bf16", "bf16", 128)]
    [InlineData("fp32", "int8", 32)]
    [InlineData("int4", "int4", 128)]
    [InlineData("int4", "int8", ErnieExportOptions.PerChannel)]
    public async Task Plan_IsWhatAnExportWrites(string experts, string dense, int group)
    {
        using var folder = new TemporaryFolder();
        var export = new ErnieExportOptions { Experts = Ernie.Cli.CommonOptions.PrecisionOf(experts), Dense = Ernie.Cli.CommonOptions.PrecisionOf(dense), GroupSize = group, Calibrate = false };
        var options = new ErniePlanOptions { GpuBytes = 8 * GB, ContextLength = 1024, Export = export };
        var planned = ErniePlan.ForModel(TinyModel.Checkpoint, options);
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), export, cancellationToken: TestContext.Current.CancellationToken);

        var manifest = ModelManifest.Read(folder.File("model"));
        Assert.Equal(new FileInfo(folder.File("model/model.weights")).Length, planned.WeightFileBytes);
        Assert.Equal(manifest.Tensors.Sum(static tensor => tensor.Bytes), planned.WeightBytes);
        // ONNX Runtime looks tokens up in a matrix of its own.
        var lookup = manifest.Formats.SharesEmbedding(manifest.Config) ? MemoryPlan.For(manifest.Config, manifest.Formats, KvElementType.BFloat16, 1).EmbeddingBytes : 0;
        Assert.Equal(planned.WeightBytes + lookup, Assert.Single(planned.Gpus).WeightBytes);

        var exported = ErniePlan.ForModel(folder.File("model"), options);
        Assert.Equal((planned.WeightFileBytes, planned.WeightBytes, planned.Precision), (exported.WeightFileBytes, exported.WeightBytes, exported.Precision));
        // The engine reserves the same cache.
        Assert.Equal(ErnieModel.EstimateMemory(folder.File("model"), 1024).KvCacheBytes, exported.KvCacheBytes);
    }

    [Theory]
    [InlineData(ErnieRelease.Small03B, 2)]
    [InlineData(ErnieRelease.Medium21B, 3)]
    [InlineData(ErnieRelease.Medium21B, 4)]
    [InlineData(ErnieRelease.Large300B, 8)]
    public void Gpus_HaveTheLayersAmongThem_AndNoneHasMoreThanItMust(ErnieRelease release, int gpuCount)
    {
        var one = ErniePlan.ForRelease(release, new ErniePlanOptions { GpuBytes = 1000 * GB });
        Assert.Equal(one.KvCacheBytes, Assert.Single(one.Gpus).KvCacheBytes);

        var many = ErniePlan.ForRelease(release, new ErniePlanOptions { GpuBytes = 1000 * GB, GpuCount = gpuCount });
        var layers = ReleasedShapes.Of(release).LayerCount;
        Assert.Equal(Enumerable.Range(0, layers), many.Gpus.SelectMany(static gpu => Enumerable.Range(gpu.FirstLayer, gpu.LayerCount)));
        Assert.Equal(one.Gpus[0].WeightBytes, many.Gpus.Sum(static gpu => gpu.WeightBytes));
        Assert.All(many.Gpus, gpu => Assert.Equal(one.KvCacheBytes / layers * gpu.LayerCount, gpu.KvCacheBytes));
        // The fullest is at most a layer above the mean of all.
        var taken = many.Gpus.Select(static gpu => gpu.CapacityBytes - gpu.FreeBytes).ToList();
        Assert.InRange(taken.Max(), taken.Average(), taken.Average() + (double)(one.Gpus[0].WeightBytes + one.KvCacheBytes) / layers);
    }

    [Fact]
    public void GpusOfDifferentSizes_AreEquallyFull()
    {
        var config = ReleasedShapes.Of(ErnieRelease.Medium21B);
        var formats = ModelFormats.Of(Ernie.Sdk.Quantization.WeightFormat.Int4(128), Ernie.Sdk.Quantization.WeightFormat.Int4(128));
        var plan = new ErniePlan(config, formats, new ErniePlanOptions { GpuBytes = 8 * GB, GpuCount = 2, Capacities = [24 * GB, 8 * GB], ReserveBytes = 0, ContextLength = 8192 });
        Assert.True(plan.IsWhollyOnGpus);
        Assert.Equal([24 * GB, 8 * GB], plan.Gpus.Select(static gpu => gpu.CapacityBytes));
        var full = plan.Gpus.Select(static gpu => 1 - gpu.FreeBytes / (double)gpu.CapacityBytes).ToList();
        Assert.InRange(full[0] - full[1], -0.1, 0.1);
        Assert.True(plan.Gpus[0].LayerCount > 2 * plan.Gpus[1].LayerCount);
    }

    [Fact]
    public void AGpuWithoutRoomForTheEmbedding_LeavesTheOthersTheirExperts()
    {
        var config = ReleasedShapes.Of(ErnieRelease.Medium21B);
        var formats = ModelFormats.Of(Ernie.Sdk.Quantization.WeightFormat.Int4(128), Ernie.Sdk.Quantization.WeightFormat.Int4(128));
        // The embedding alone is of half a gigabyte.
        var plan = new ErniePlan(config, formats, new ErniePlanOptions { GpuBytes = GB / 2, GpuCount = 2, Capacities = [GB / 2, 24 * GB], ReserveBytes = 0, ContextLength = 8192 });
        Assert.True(plan.Fits);
        Assert.Equal([0], plan.CpuLayers);
        Assert.All(plan.Gpus, static gpu => Assert.True(gpu.FreeBytes >= 0));
        Assert.All(plan.CpuExperts.Keys, layer => Assert.True(plan.Gpus[0].Layers.Contains(layer)));
    }

    [Fact]
    public void MoreGpusThanLayers_AreRefused()
    {
        var e = Assert.Throws<ArgumentException>(() => ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 29 }));
        Assert.Contains("28 layers", e.Message, StringComparison.Ordinal);
        Assert.All(ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 28 }).Gpus, static gpu => Assert.Equal(1, gpu.LayerCount));
        Assert.Throws<ArgumentException>(() => ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 80 * GB, ContextLength = 131073 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => ErniePlan.ForRelease((ErnieRelease)7, new ErniePlanOptions { GpuBytes = GB }));
    }

    [Theory]
    [InlineData(ErnieRelease.Large300B, 80, 1)]
    [InlineData(ErnieRelease.Large300B, 48, 4)]
    [InlineData(ErnieRelease.Medium21B, 16, 1)]
    [InlineData(ErnieRelease.Medium21B, 10, 2)]
    public void WhatDoesNotFit_LeavesExpertsOnTheCpu_AndNoMoreThanMust(ErnieRelease release, int gigabytes, int gpuCount)
    {
        var plan = ErniePlan.ForRelease(release, new ErniePlanOptions { GpuBytes = gigabytes * GB, GpuCount = gpuCount });
        Assert.True(plan.Fits);
        Assert.False(plan.IsWhollyOnGpus);
        Assert.Empty(plan.CpuLayers);
        Assert.Equal(0, plan.CpuKvCacheBytes);
        Assert.All(plan.Gpus, static gpu => Assert.True(gpu.FreeBytes >= 0));

        var config = ReleasedShapes.Of(release);
        foreach (var gpu in plan.Gpus)
        {
            // Of each GPU's layers a run up to the last, with about as many in each.
            var away = plan.CpuExperts.Where(pair => pair.Key >= gpu.FirstLayer && pair.Key < gpu.FirstLayer + gpu.LayerCount).ToList();
            if (away.Count == 0) continue;
            Assert.Equal(Enumerable.Range(gpu.FirstLayer + gpu.LayerCount - away.Count, away.Count), away.Select(static pair => pair.Key));
            Assert.InRange(away.Max(static pair => pair.Value), 1, away.Min(static pair => pair.Value) + 1);
        }
        // What stays is so many experts, and one more of them would not have fitted.
        var expert = MemoryPlan.For(config, ModelFormats.Of(Ernie.Sdk.Quantization.WeightFormat.Int4(128), Ernie.Sdk.Quantization.WeightFormat.Int4(128)), KvElementType.BFloat16, 128).ExpertBytes / config.MoeLayerCount / config.ExpertCount;
        Assert.Equal(plan.CpuExperts.Values.Sum() * expert, plan.CpuWeightBytes);
        Assert.Contains(plan.Gpus, gpu => gpu.FreeBytes < expert);
    }

    [Fact]
    public void AFewExperts_AreOfTheLastLayers()
    {
        var whole = ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 24 * GB }).Gpus[0];
        var expert = MemoryPlan.For(ReleasedShapes.Of(ErnieRelease.Medium21B), ModelFormats.Of(Ernie.Sdk.Quantization.WeightFormat.Int4(128), Ernie.Sdk.Quantization.WeightFormat.Int4(128)), KvElementType.BFloat16, 128).ExpertBytes / 27 / 64;
        string Away(int count) => ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 24 * GB - whole.FreeBytes - count * expert, ReserveBytes = whole.ReserveBytes }).DescribeCpuExperts();
        Assert.Equal("5 of layer 27", Away(5));
        Assert.Equal("5 of layer 25, 6 of layers 26-27", Away(17));
        Assert.Equal("19 of layers 1-20, 20 of layers 21-27", Away(520));
        Assert.Equal("64 of layers 1-27", Away(27 * 64));
    }

    [Fact]
    public void Layers_LeaveTheGpuOnlyAfterAllExperts_WithTheirCache()
    {
        var plan = ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 8 * GB });
        Assert.True(plan.Fits);
        Assert.NotEmpty(plan.CpuLayers);
        // Its layers' experts are the CPU's, but for what a layer more would have needed.
        Assert.All(plan.CpuLayers.Skip(1), layer => Assert.Equal(64, plan.CpuExperts[layer]));
        Assert.InRange(plan.CpuExperts.Values.Sum(), 26 * 64, 27 * 64);
        Assert.Equal(Enumerable.Range(0, plan.CpuLayers.Count), plan.CpuLayers);
        Assert.Equal(plan.CpuLayers.Count * plan.KvCacheBytes / 28, plan.CpuKvCacheBytes);
        Assert.Equal(plan.WeightBytes, plan.CpuWeightBytes + plan.Gpus[0].WeightBytes);
        // An expert more on the GPU would not have fitted.
        Assert.InRange(plan.Gpus[0].FreeBytes, 0, plan.WeightBytes / 27 / 64);
        var never = ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = GB });
        Assert.False(never.Fits);
        Assert.Equal(27, never.CpuLayers.Count);
        Assert.True(never.Gpus[0].FreeBytes < 0);
        Assert.Equal(0, never.MaxRequests(128));
        Assert.Equal(0, never.MaxContextLength(1));
    }

    [Fact]
    public void Room_IsTheMostThatFits()
    {
        ErniePlan For(int context, int requests) => ErniePlan.ForRelease(ErnieRelease.Medium21B, new ErniePlanOptions { GpuBytes = 48 * GB, ContextLength = context, Requests = requests });
        var plan = For(4096, 1);
        var most = plan.MaxRequests(4096);
        Assert.True(For(4096, most).IsWhollyOnGpus);
        Assert.False(For(4096, most + 1).IsWhollyOnGpus);
        var longest = plan.MaxContextLength(16);
        Assert.True(For(longest, 16).IsWhollyOnGpus);
        Assert.False(For(longest + 128, 16).IsWhollyOnGpus);
    }

    [Theory]
    [InlineData(100_000 * GB)]
    [InlineData(9_000_000_000 * GB)]
    public void Room_OfAGpuWithoutEnd_IsWhatAModelTakes(long bytes)
    {
        var plan = ErniePlan.ForRelease(ErnieRelease.Small03B, new ErniePlanOptions { GpuBytes = bytes, ReserveBytes = 0, KvCacheType = ErnieKvCacheType.Int8 });
        Assert.Equal(4096, plan.MaxRequests(4096));
        Assert.Equal(131072, plan.MaxContextLength(64));
        Assert.Equal(0, plan.MaxRequests(131073));
    }

    [Fact]
    public void Room_ForRequestsWithoutEnd_IsNone()
    {
        var plan = ErniePlan.ForRelease(ErnieRelease.Large300B, new ErniePlanOptions { GpuBytes = 80 * GB, GpuCount = 4 });
        Assert.Equal(0, plan.MaxContextLength(int.MaxValue));
        Assert.Equal(0, plan.MaxRequests(int.MaxValue));
    }
}
