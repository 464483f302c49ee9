using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Random models of awkward sizes: no width is a multiple of a vector, groups of query heads are uneven powers, experts are narrow.</summary>
internal static class SmallModels
{
    public static ErnieConfig Moe { get; } = new()
    {
        ModelType = "ernie4_5_moe", VocabSize = 203, HiddenSize = 71, IntermediateSize = 50, LayerCount = 3, HeadCount = 6, KvHeadCount = 2, HeadDim = 18,
        ContextLength = 8192, RopeTheta = 500000, RmsNormEps = 1e-5f, TieWordEmbeddings = false,
        ExpertCount = 10, ExpertsPerToken = 3, ExpertIntermediateSize = 21, SharedExpertCount = 2, MoeLayers = [false, true, true],
    };

    public static ErnieConfig Dense { get; } = new()
    {
        ModelType = "ernie4_5", VocabSize = 131, HiddenSize = 90, IntermediateSize = 77, LayerCount = 2, HeadCount = 5, KvHeadCount = 1, HeadDim = 32,
        ContextLength = 8192, RopeTheta = 10000, RmsNormEps = 1e-6f, TieWordEmbeddings = true,
    };

    /// <summary>A model by name; <c>tiny</c> is the one that the repository ships.</summary>
    public static LoadedRunner Load(string name, int blocks = 64) => name switch
    {
        "moe" => new LoadedRunner(new SyntheticWeights(Moe, 1), blocks: blocks),
        "moe-fp32" => new LoadedRunner(new SyntheticWeights(Moe, 2), blocks: blocks, precision: ErniePrecision.Float32),
        "dense" => new LoadedRunner(new SyntheticWeights(Dense, 3), blocks: blocks),
        _ => new LoadedRunner(TinyModel.Checkpoint, blocks: blocks),
    };

    public static int[] Ids(LoadedRunner model, int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(model.Manifest.Config.VocabSize))];
    }
}
