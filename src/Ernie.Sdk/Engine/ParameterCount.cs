using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Engine;

/// <summary>Parameters of a model by part.</summary>
internal sealed record ParameterCount
{
    private ParameterCount() { }

    public required long Embedding { get; init; }
    /// <summary>0 in a tied model.</summary>
    public required long Head { get; init; }
    public required long Attention { get; init; }
    public required long DenseMlp { get; init; }
    public required long Experts { get; init; }
    public required long SharedExperts { get; init; }
    public required long Router { get; init; }
    public required long Norms { get; init; }
    /// <summary>Of all parameters, those that one token reads: of the experts the chosen ones, of the embedding one row (all of it where it is the head as well).</summary>
    public required long ActivePerToken { get; init; }

    public long Total => checked(Embedding + Head + Attention + DenseMlp + Experts + SharedExperts + Router + Norms);

    public static ParameterCount Of(ErnieConfig config)
    {
        checked
        {
            long hidden = config.HiddenSize, moeLayers = config.MoeLayerCount, denseLayers = config.LayerCount - moeLayers;
            var matrix = config.VocabSize * hidden;
            var expert = 3 * hidden * config.ExpertIntermediateSize;
            var count = new ParameterCount
            {
                Embedding = matrix,
                Head = config.TieWordEmbeddings ? 0 : matrix,
                Attention = config.LayerCount * hidden * (config.QkvSize + (long)config.HeadCount * config.HeadDim),
                DenseMlp = denseLayers * 3 * hidden * config.IntermediateSize,
                Experts = moeLayers * config.ExpertCount * expert,
                SharedExperts = moeLayers * 3 * hidden * config.SharedIntermediateSize,
                Router = moeLayers * (hidden + 1) * config.ExpertCount,
                Norms = (2L * config.LayerCount + 1) * hidden,
                ActivePerToken = 0,
            };
            var embeddingRead = config.TieWordEmbeddings ? matrix : hidden;
            return count with { ActivePerToken = count.Total - count.Embedding + embeddingRead - count.Experts + moeLayers * config.ExpertsPerToken * expert };
        }
    }
}
