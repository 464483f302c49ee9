namespace Ernie.Sdk.Checkpoints;

/// <summary>Architectures of the models that Baidu released, for synthetic weights and for estimates without a checkpoint. Files decide where they say otherwise.</summary>
internal static class ReleasedShapes
{
    public static ErnieConfig Small03B { get; } = new()
    {
        ModelType = "ernie4_5", VocabSize = 103424, HiddenSize = 1024, IntermediateSize = 3072, LayerCount = 18, HeadCount = 16, KvHeadCount = 2, HeadDim = 128,
        ContextLength = 131072, RopeTheta = 500000, RmsNormEps = 1e-5f, TieWordEmbeddings = true, BosTokenId = 1, EosTokenIds = [2], PadTokenId = 0,
    };

    /// <summary>21B-A3B, base, chat and Thinking.</summary>
    public static ErnieConfig Medium21B { get; } = new()
    {
        ModelType = "ernie4_5_moe", VocabSize = 103424, HiddenSize = 2560, IntermediateSize = 12288, LayerCount = 28, HeadCount = 20, KvHeadCount = 4, HeadDim = 128,
        ContextLength = 131072, RopeTheta = 500000, RmsNormEps = 1e-5f, TieWordEmbeddings = true, BosTokenId = 1, EosTokenIds = [2], PadTokenId = 0,
        ExpertCount = 64, ExpertsPerToken = 6, ExpertIntermediateSize = 1536, SharedExpertCount = 2, MoeLayers = MoeLayerRule.Layers(28, 1, -1, 1),
    };

    /// <summary>300B-A47B. Sources disagree on whether its embedding is tied; untied is the likelier reading and the larger estimate.</summary>
    public static ErnieConfig Large300B { get; } = new()
    {
        ModelType = "ernie4_5_moe", VocabSize = 103424, HiddenSize = 8192, IntermediateSize = 28672, LayerCount = 54, HeadCount = 64, KvHeadCount = 8, HeadDim = 128,
        ContextLength = 131072, RopeTheta = 500000, RmsNormEps = 1e-5f, TieWordEmbeddings = false, BosTokenId = 1, EosTokenIds = [2], PadTokenId = 0,
        ExpertCount = 64, ExpertsPerToken = 8, ExpertIntermediateSize = 3584, SharedExpertCount = 0, MoeLayers = MoeLayerRule.Layers(54, 3, -1, 1),
    };

    public static ErnieConfig Of(ErnieRelease release) => release switch
    {
        ErnieRelease.Small03B => Small03B,
        ErnieRelease.Medium21B => Medium21B,
        ErnieRelease.Large300B => Large300B,
        _ => throw new ArgumentOutOfRangeException(nameof(release), release, "Use a value of ErnieRelease."),
    };
}
