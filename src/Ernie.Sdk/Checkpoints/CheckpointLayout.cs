namespace Ernie.Sdk.Checkpoints;

/// <summary>How a checkpoint spells and orients its tensors. Told from tensor names and shapes, never from <c>config.json</c>.</summary>
internal enum CheckpointLayout
{
    /// <summary>Prefix <c>model.</c>, projections apart, linears [out, in] (-PT, transformers v4).</summary>
    Split,
    /// <summary>As <see cref="Split"/>, experts of a layer in two stacked tensors (transformers v5).</summary>
    FusedExperts,
    /// <summary>Prefix <c>ernie.</c>, q|k|v and gate|up fused, linears [in, out] (-Paddle).</summary>
    Paddle,
}
