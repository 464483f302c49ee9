using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Engine;

public class MemoryPlanTests
{
    [Fact]
    public void Parameters_AreThePublishedOnes()
    {
        Assert.Equal(0.361, Billions(ParameterCount.Of(ReleasedShapes.Small03B).Total), 3);
        Assert.Equal(21.8, Billions(ParameterCount.Of(ReleasedShapes.Medium21B).Total), 1);
        Assert.Equal(299.5, Billions(ParameterCount.Of(ReleasedShapes.Large300B).Total), 1);
        Assert.Equal(298.6, Billions(ParameterCount.Of(ReleasedShapes.Large300B with { TieWordEmbeddings = true }).Total), 1);
        // 21B-A3B and 300B-A47B.
        Assert.Equal(3, Billions(ParameterCount.Of(ReleasedShapes.Medium21B).ActivePerToken), 0);
        Assert.Equal(47, Billions(ParameterCount.Of(ReleasedShapes.Large300B).ActivePerToken), 0);
    }

    [Fact]
    public void Cache_TakesWholeBlocks()
    {
        var one = Plan(ReleasedShapes.Medium21B, 1);
        Assert.Equal(1, one.CacheBlocks);
        Assert.Equal(one.CacheBytes, Plan(ReleasedShapes.Medium21B, 128).CacheBytes);
        Assert.Equal(2 * one.CacheBytes, Plan(ReleasedShapes.Medium21B, 129).CacheBytes);
        Assert.Equal(3 * one.CacheBytes, Plan(ReleasedShapes.Medium21B, 128, 3).CacheBytes);
        Assert.Equal(0, Plan(ReleasedShapes.Medium21B, 0).CacheBytes);
        // 7 GiB for 131,072 tokens, and the block summaries beside them.
        var full = Plan(ReleasedShapes.Medium21B, 131072).CacheBytes;
        Assert.InRange(full, 7L << 30, (7L << 30) * 102 / 100);
    }

    [Theory]
    [InlineData(0, 0.72)]
    [InlineData(1, 43.6)]
    [InlineData(2, 599)]
    public void BFloat16Weights_AreTwoBytesAParameter(int model, double gigabytes)
    {
        var config = new[] { ReleasedShapes.Small03B, ReleasedShapes.Medium21B, ReleasedShapes.Large300B }[model];
        var plan = Plan(config, 4096);
        Assert.InRange(plan.WeightBytes / 1e9, gigabytes * 0.995, gigabytes * 1.005);
        Assert.Equal(2 * (plan.Parameters.Total + plan.Parameters.Norms + plan.Parameters.Router), plan.WeightBytes);
        Assert.Equal(4 * plan.Parameters.Total, MemoryPlan.For(config, ModelFormats.Of(WeightFormat.Float32, WeightFormat.Float32), KvElementType.BFloat16, 4096).WeightBytes);
    }

    [Fact]
    public void Plan_CountsWhatACheckpointHolds()
    {
        using var checkpoint = Checkpoint.Open(Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe"));
        var stored = checkpoint.TensorKeys.Select(checkpoint.Tensor).DistinctBy(static t => t.Name).Sum(static t => t.Count);
        Assert.Equal(stored, ParameterCount.Of(checkpoint.Config).Total);
    }

    [Fact]
    public void AbsurdSizes_Overflow() =>
        Assert.Throws<OverflowException>(() => MemoryPlan.For(ReleasedShapes.Large300B, ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.BFloat16), KvElementType.Float32, long.MaxValue / 2, 1000));

    private static double Billions(long count) => count / 1e9;

    private static MemoryPlan Plan(ErnieConfig config, long tokens, int sequences = 1) =>
        MemoryPlan.For(config, ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.BFloat16), KvElementType.BFloat16, tokens, sequences);
}
