using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Engine;

/// <summary>What an exported model takes on disk and in memory. The one calculator: whoever tells a user a size asks here.</summary>
/// <remarks>
/// Weights and cache are exact; the workspace is an estimate from the shapes of the activations. Norms, router and correction bias are stored as float32; a tied model
/// stores one matrix for embedding and head where both have one format. The graph itself (under a megabyte) and the alignment of tensors in the file are left out.
/// </remarks>
internal sealed record MemoryPlan
{
    /// <summary>Prompt tokens computed at once unless told otherwise: the default of <see cref="ErnieModelOptions.PrefillChunkTokens"/>.</summary>
    public const int DefaultChunk = 512;

    private MemoryPlan() { }

    public required ParameterCount Parameters { get; init; }
    public required long EmbeddingBytes { get; init; }
    /// <summary>0 where the embedding is the head.</summary>
    public required long HeadBytes { get; init; }
    public required long AttentionBytes { get; init; }
    public required long DenseMlpBytes { get; init; }
    public required long ExpertBytes { get; init; }
    public required long SharedExpertBytes { get; init; }
    /// <summary>Router and correction bias.</summary>
    public required long RouterBytes { get; init; }
    public required long NormBytes { get; init; }
    /// <summary>Blocks of <see cref="KvBlockLayout.BlockSize"/> tokens in each layer.</summary>
    public required long CacheBlocks { get; init; }
    public required long CacheBytes { get; init; }
    /// <summary>Activations of one chunk, logits and the table of rotary angles; an estimate.</summary>
    public required long WorkspaceBytes { get; init; }

    /// <summary>Size on disk; the same bytes are mapped at run time.</summary>
    public long WeightBytes => checked(EmbeddingBytes + HeadBytes + AttentionBytes + DenseMlpBytes + ExpertBytes + SharedExpertBytes + RouterBytes + NormBytes);
    public long TotalBytes => checked(WeightBytes + CacheBytes + WorkspaceBytes);

    /// <param name="config">The model.</param>
    /// <param name="formats">Formats of the matrices.</param>
    /// <param name="cache">Element type of cached keys and values.</param>
    /// <param name="tokens">Tokens of each sequence, prompt and answer together.</param>
    /// <param name="sequences">Sequences held at once.</param>
    /// <param name="chunk">Prompt tokens computed at once.</param>
    /// <exception cref="OverflowException">The sizes leave 63 bits.</exception>
    public static MemoryPlan For(ErnieConfig config, ModelFormats formats, KvElementType cache, long tokens, int sequences = 1, int chunk = DefaultChunk)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ArgumentOutOfRangeException.ThrowIfNegative(sequences);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunk);
        checked
        {
            long hidden = config.HiddenSize;
            var layers = Enumerable.Range(0, config.LayerCount);
            var queries = config.HeadCount * config.HeadDim;
            var parameters = ParameterCount.Of(config);
            var blocks = sequences * ((tokens + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize);
            return new MemoryPlan
            {
                Parameters = parameters,
                EmbeddingBytes = Matrix(formats.Embedding, config.VocabSize, hidden),
                HeadBytes = formats.SharesEmbedding(config) ? 0 : Matrix(formats.Head, config.VocabSize, hidden),
                AttentionBytes = layers.Sum(layer => Matrix(formats.OfDense(ErnieGraph.QueryKeyValue, layer), config.QkvSize, hidden) + Matrix(formats.OfDense(ErnieGraph.AttentionOutput, layer), hidden, queries)
                    + (config.IsGatedLayer(layer) ? (long)sizeof(float) * config.KvHeadCount * KvBlockLayout.BlockSize * config.HeadDim : 0)),
                DenseMlpBytes = layers.Where(layer => !config.IsMoeLayer(layer)).Sum(layer =>
                    Mlp(formats.OfDense(ErnieGraph.DenseGateUp, layer), formats.OfDense(ErnieGraph.DenseDown, layer), 1, hidden, config.IntermediateSize)),
                ExpertBytes = layers.Where(config.IsMoeLayer).Sum(layer =>
                    Mlp(formats.OfExperts(ErnieGraph.ExpertGateUp, layer), formats.OfExperts(ErnieGraph.ExpertDown, layer), config.ExpertCount, hidden, config.ExpertIntermediateSize)),
                SharedExpertBytes = layers.Where(config.IsMoeLayer).Sum(layer =>
                    Mlp(formats.OfDense(ErnieGraph.SharedGateUp, layer), formats.OfDense(ErnieGraph.SharedDown, layer), 1, hidden, config.SharedIntermediateSize)),
                RouterBytes = parameters.Router * sizeof(float),
                NormBytes = parameters.Norms * sizeof(float),
                CacheBlocks = blocks,
                CacheBytes = blocks * config.LayerCount * new KvBlockLayout(cache, config.KvHeadCount, config.HeadDim).BlockBytes,
                WorkspaceBytes = Workspace(config, tokens, Math.Min(chunk, Math.Max(1, tokens)), sequences),
            };
        }
    }

    /// <summary>Gate|up and down of <paramref name="count"/> SwiGLUs; each half of gate|up is a section.</summary>
    private static long Mlp(WeightFormat gateUp, WeightFormat down, long count, long hidden, long width) =>
        width == 0 ? 0 : checked(gateUp.Bytes(2 * count, width, hidden) + down.Bytes(count, hidden, width));

    private static long Matrix(WeightFormat format, long rows, long columns) => format.Bytes(1, rows, columns);

    private static long Workspace(ErnieConfig config, long tokens, long chunk, int sequences)
    {
        checked
        {
            long hidden = config.HiddenSize, queries = (long)config.HeadCount * config.HeadDim;
            // An expert's gate|up and their product live at once, for every chosen expert, beside the outputs that are summed.
            var mlp = config.MoeLayerCount == config.LayerCount ? 0 : 3L * config.IntermediateSize;
            var moe = config.MoeLayerCount == 0 ? 0 : config.ExpertsPerToken * (3L * config.ExpertIntermediateSize + hidden) + 3L * config.SharedIntermediateSize;
            // Residual stream, normed input and output of the block.
            var perToken = 3 * hidden + config.QkvSize + queries + Math.Max(mlp, moe);
            // Cosine and sine of head_dim / 2 angles for every position in use.
            var rope = tokens * config.HeadDim;
            return sizeof(float) * (chunk * perToken + (long)sequences * config.VocabSize + rope);
        }
    }
}
