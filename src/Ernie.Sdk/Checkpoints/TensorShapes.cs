namespace Ernie.Sdk.Checkpoints;

/// <summary>The shape that an architecture gives each weight, [rows = outputs, columns = inputs]; a vector is one row.</summary>
internal static class TensorShapes
{
    public static (long Rows, long Columns) Of(ErnieConfig config, string canonicalName)
    {
        foreach (var (name, rows, columns) in All(config))
        {
            if (Matches(name, canonicalName)) return (rows, columns);
        }
        throw new ArgumentException($"{canonicalName} is no weight of this architecture.", nameof(canonicalName));
    }

    // The shapes repeat from layer to layer and expert to expert: numbers in a path do not matter.
    private static bool Matches(string suffix, string name) =>
        suffix.StartsWith('.') ? name.EndsWith(suffix, StringComparison.Ordinal) : name == suffix;

    private static IEnumerable<(string Name, long Rows, long Columns)> All(ErnieConfig c)
    {
        long hidden = c.HiddenSize;
        yield return (TensorNames.Embedding, c.VocabSize, hidden);
        yield return (TensorNames.Head, c.VocabSize, hidden);
        yield return (TensorNames.FinalNorm, 1, hidden);
        yield return (".input_layernorm.weight", 1, hidden);
        yield return (".post_attention_layernorm.weight", 1, hidden);
        yield return (".self_attn.q_proj.weight", (long)c.HeadCount * c.HeadDim, hidden);
        yield return (".self_attn.k_proj.weight", (long)c.KvHeadCount * c.HeadDim, hidden);
        yield return (".self_attn.v_proj.weight", (long)c.KvHeadCount * c.HeadDim, hidden);
        yield return (".self_attn.o_proj.weight", hidden, (long)c.HeadCount * c.HeadDim);
        yield return (".self_attn.attn_gate.weight", (long)c.KvHeadCount * Kernels.KvBlockLayout.BlockSize, c.HeadDim);
        yield return (".mlp.gate.weight", c.ExpertCount, hidden);
        yield return (".mlp.moe_statics.e_score_correction_bias", 1, c.ExpertCount);
        yield return (".mlp.shared_experts.gate_proj.weight", c.SharedIntermediateSize, hidden);
        yield return (".mlp.shared_experts.up_proj.weight", c.SharedIntermediateSize, hidden);
        yield return (".mlp.shared_experts.down_proj.weight", hidden, c.SharedIntermediateSize);
        yield return (".mlp.gate_proj.weight", c.IntermediateSize, hidden);
        yield return (".mlp.up_proj.weight", c.IntermediateSize, hidden);
        yield return (".mlp.down_proj.weight", hidden, c.IntermediateSize);
        // What is left with these endings belongs to a routed expert.
        yield return (".gate_proj.weight", c.ExpertIntermediateSize, hidden);
        yield return (".up_proj.weight", c.ExpertIntermediateSize, hidden);
        yield return (".down_proj.weight", hidden, c.ExpertIntermediateSize);
    }
}
