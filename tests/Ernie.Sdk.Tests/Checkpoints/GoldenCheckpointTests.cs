using System.Text.Json;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

/// <summary>Files of a third party (transformers) and of the golden generator: every weight must have the value that its name stands for.</summary>
public class GoldenCheckpointTests
{
    [Theory]
    [InlineData("dense-0.3b-like", CheckpointLayout.Split)]
    [InlineData("moe-21b-like", CheckpointLayout.Split)]
    [InlineData("moe-300b-like", CheckpointLayout.Split)]
    [InlineData("moe-interval2", CheckpointLayout.Split)]
    [InlineData("moe-yarn-free-long", CheckpointLayout.FusedExperts)]
    internal void Transformers_EveryWeightHasItsNamesValue(string folder, CheckpointLayout layout)
    {
        using var expected = JsonDocument.Parse(File.ReadAllText(SharedData.Path("goldens", "transformers", folder, "expected.json")));
        var prefix = expected.RootElement.GetProperty("weight_prefix").GetString()!;
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "transformers", folder));
        Assert.Equal(layout, checkpoint.Layout);
        AssertWeights(checkpoint, GoldenWeights.Transformers(prefix, routerIsBFloat16: folder == "moe-interval2"));
    }

    [Theory]
    [InlineData("pt-bf16", CheckpointLayout.Split)]
    [InlineData("v5-fused", CheckpointLayout.FusedExperts)]
    [InlineData("paddle-bf16", CheckpointLayout.Paddle)]
    internal void Layouts_EveryWeightHasItsNamesValue(string folder, CheckpointLayout layout)
    {
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "checkpoints", folder));
        Assert.Equal(layout, checkpoint.Layout);
        Assert.False(checkpoint.Config.TieWordEmbeddings);
        AssertWeights(checkpoint, GoldenWeights.Checkpoints);
    }

    [Fact]
    public void TwoBits_WithoutItsConfigKeyIsRefusedByItsTensors()
    {
        using var folder = new TemporaryFolder();
        foreach (var file in Directory.EnumerateFiles(SharedData.Path("goldens", "checkpoints", "2bits"))) File.Copy(file, folder.File(Path.GetFileName(file)));
        File.Copy(SharedData.Path("goldens", "checkpoints", "paddle-bf16", "config.json"), folder.File("config.json"), overwrite: true);
        var e = Assert.Throws<NotSupportedException>(() => Checkpoint.Open(folder.Path));
        Assert.Contains("quant_weight", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OlderKeys_DescribeTheSameModel()
    {
        var path = SharedData.Path("goldens", "transformers", "moe-21b-like");
        var notes = new List<string>();
        var newer = ErnieConfigReader.Parse(File.ReadAllBytes(Path.Combine(path, "config.json")), "config.json", notes);
        var older = ErnieConfigReader.Parse(File.ReadAllBytes(Path.Combine(path, "config-rope-theta.json")), "config-rope-theta.json", notes);
        Assert.Equal(newer.MoeLayers, older.MoeLayers);
        Assert.Equal(newer.EosTokenIds, older.EosTokenIds);
        Assert.Equal(newer with { MoeLayers = [], EosTokenIds = [] }, older with { MoeLayers = [], EosTokenIds = [] });
    }

    [Fact]
    public void DenseConfig_IsRead()
    {
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "transformers", "dense-0.3b-like"));
        var config = checkpoint.Config;
        Assert.Equal(("ernie4_5", 320, 64, 160, 4), (config.ModelType, config.VocabSize, config.HiddenSize, config.IntermediateSize, config.LayerCount));
        Assert.Equal((16, 2, 16, 4096, 500000.0, 1e-5f, true), (config.HeadCount, config.KvHeadCount, config.HeadDim, config.ContextLength, config.RopeTheta, config.RmsNormEps, config.TieWordEmbeddings));
        Assert.Equal((0, 0, 1, 0), (config.ExpertCount, config.MoeLayerCount, config.BosTokenId, config.PadTokenId));
        Assert.Equal([2], config.EosTokenIds);
        Assert.Empty(checkpoint.Notes);
    }

    [Theory]
    [InlineData("moe-21b-like", "1,2", 16, 6, 2, 16)]
    [InlineData("moe-300b-like", "3,4", 16, 8, 0, 16)]
    [InlineData("moe-interval2", "1,3", 8, 3, 1, 16)]
    [InlineData("moe-yarn-free-long", "1,2", 16, 6, 2, 16)]
    public void MoeConfig_IsRead(string folder, string layers, int experts, int perToken, int shared, int headDim)
    {
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "transformers", folder));
        var config = checkpoint.Config;
        Assert.Equal(layers, string.Join(',', Enumerable.Range(0, config.LayerCount).Where(config.IsMoeLayer)));
        Assert.Equal((experts, perToken, shared, headDim), (config.ExpertCount, config.ExpertsPerToken, config.SharedExpertCount, config.HeadDim));
    }

    [Fact]
    public void TinyMoe_Opens()
    {
        using var checkpoint = Checkpoint.Open(Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe"));
        Assert.Equal(CheckpointLayout.Split, checkpoint.Layout);
        Assert.Equal((5, 4, 8, 2, 64), (checkpoint.Config.LayerCount, checkpoint.Config.MoeLayerCount, checkpoint.Config.ExpertCount, checkpoint.Config.ExpertsPerToken, checkpoint.Config.HeadDim));
        Assert.Same(checkpoint.Tensor(TensorNames.Embedding), checkpoint.Tensor(TensorNames.Head));
        Assert.Throws<ArgumentException>(() => checkpoint.Tensor("model.layers.5.input_layernorm.weight"));
        foreach (var name in checkpoint.TensorKeys)
        {
            var tensor = checkpoint.Tensor(name);
            var values = new float[tensor.Count];
            tensor.Read(0, values);
            Assert.False(CheckpointTensor.ContainsNonFinite(values), name);
        }
    }

    [Fact]
    public void PaddleExtras_AreNoted()
    {
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "checkpoints", "paddle-bf16"));
        Assert.Contains(checkpoint.Notes, note => note.Contains("mtp", StringComparison.Ordinal));
        Assert.Contains(checkpoint.Notes, note => note.Contains("expert_usage", StringComparison.Ordinal));
    }

    private static void AssertWeights(Checkpoint checkpoint, GoldenWeights golden)
    {
        foreach (var name in checkpoint.TensorKeys)
        {
            var tensor = checkpoint.Tensor(name);
            if (name != tensor.Name) continue;
            var expected = golden.Of(tensor);
            var actual = new float[tensor.Count];
            // Whole, and in runs of rows that do not divide it.
            tensor.Read(0, actual);
            Assert.True(expected.AsSpan().SequenceEqual(actual), name);
            for (long row = 0; row < tensor.Rows; row += 5)
            {
                var rows = Math.Min(5, tensor.Rows - row);
                var part = new float[rows * tensor.Columns];
                tensor.Read(row, part);
                Assert.True(expected.AsSpan((int)(row * tensor.Columns), part.Length).SequenceEqual(part), $"{name} from row {row}");
            }
        }
    }
}
