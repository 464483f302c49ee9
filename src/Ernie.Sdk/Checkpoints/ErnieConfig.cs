namespace Ernie.Sdk.Checkpoints;

/// <summary>The architecture of an ERNIE 4.5 text model, in the terms of its <c>config.json</c>.</summary>
internal sealed record ErnieConfig
{
    /// <summary><c>ernie4_5</c> (dense) or <c>ernie4_5_moe</c>.</summary>
    public required string ModelType { get; init; }
    public required int VocabSize { get; init; }
    public required int HiddenSize { get; init; }
    public required int IntermediateSize { get; init; }
    public required int LayerCount { get; init; }
    public required int HeadCount { get; init; }
    public required int KvHeadCount { get; init; }
    public required int HeadDim { get; init; }
    public required int ContextLength { get; init; }
    public required double RopeTheta { get; init; }
    /// <summary>Positions are divided by this before rotation (<c>compression_ratio</c>, 1 in every released model).</summary>
    public double CompressionRatio { get; init; } = 1;
    public required float RmsNormEps { get; init; }
    public required bool TieWordEmbeddings { get; init; }

    public int ExpertCount { get; init; }
    public int ExpertsPerToken { get; init; }
    public int ExpertIntermediateSize { get; init; }
    public int SharedExpertCount { get; init; }
    /// <summary>Which layers are mixtures of experts; length <see cref="LayerCount"/>.</summary>
    public IReadOnlyList<bool> MoeLayers { get; init; } = [];
    public float RouterNormMin { get; init; } = 1e-12f;
    /// <summary>Whether experts are selected with a correction bias; without one it is zero.</summary>
    public bool HasCorrectionBias { get; init; } = true;

    /// <summary>Whether layers have a learned gate, by which sparse attention summarises blocks in prefill. The last layer never has one and then prefills densely.</summary>
    public bool HasAttentionGates { get; init; }

    public IReadOnlyList<int> EosTokenIds { get; init; } = [];
    public int? BosTokenId { get; init; }
    public int? PadTokenId { get; init; }

    public bool IsMoeLayer(int layer) => (uint)layer < (uint)MoeLayers.Count && MoeLayers[layer];
    public bool IsGatedLayer(int layer) => HasAttentionGates && layer < LayerCount - 1;
    public int MoeLayerCount => MoeLayers.Count(static moe => moe);
    /// <summary>Width of the one SwiGLU that stands for all shared experts.</summary>
    public int SharedIntermediateSize => ExpertIntermediateSize * SharedExpertCount;
    /// <summary>Rows of the fused q|k|v projection.</summary>
    public int QkvSize => (HeadCount + 2 * KvHeadCount) * HeadDim;
}
