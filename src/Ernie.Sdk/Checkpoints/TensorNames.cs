namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// Every weight by its one canonical name: that of the -PT layout. Readers of other layouts translate to these; the exported graph uses them as value names.
/// </summary>
internal static class TensorNames
{
    public const string Embedding = "model.embed_tokens.weight";
    public const string FinalNorm = "model.norm.weight";
    public const string Head = "lm_head.weight";

    public static string Layer(int layer) => $"model.layers.{layer}";
    public static string InputNorm(int layer) => $"model.layers.{layer}.input_layernorm.weight";
    public static string PostAttentionNorm(int layer) => $"model.layers.{layer}.post_attention_layernorm.weight";
    public static string Query(int layer) => $"model.layers.{layer}.self_attn.q_proj.weight";
    public static string Key(int layer) => $"model.layers.{layer}.self_attn.k_proj.weight";
    public static string Value(int layer) => $"model.layers.{layer}.self_attn.v_proj.weight";
    public static string AttentionOutput(int layer) => $"model.layers.{layer}.self_attn.o_proj.weight";
    public static string AttentionGate(int layer) => $"model.layers.{layer}.self_attn.attn_gate.weight";
    public static string Gate(int layer) => $"model.layers.{layer}.mlp.gate_proj.weight";
    public static string Up(int layer) => $"model.layers.{layer}.mlp.up_proj.weight";
    public static string Down(int layer) => $"model.layers.{layer}.mlp.down_proj.weight";
    public static string Router(int layer) => $"model.layers.{layer}.mlp.gate.weight";
    public static string CorrectionBias(int layer) => $"model.layers.{layer}.mlp.moe_statics.e_score_correction_bias";
    public static string ExpertGate(int layer, int expert) => $"model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight";
    public static string ExpertUp(int layer, int expert) => $"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight";
    public static string ExpertDown(int layer, int expert) => $"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight";
    public static string SharedGate(int layer) => $"model.layers.{layer}.mlp.shared_experts.gate_proj.weight";
    public static string SharedUp(int layer) => $"model.layers.{layer}.mlp.shared_experts.up_proj.weight";
    public static string SharedDown(int layer) => $"model.layers.{layer}.mlp.shared_experts.down_proj.weight";
}
