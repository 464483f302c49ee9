using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>
/// The contract between the exported graph and the kernels: names, order and types of inputs, outputs and attributes. The exporter and the operators read this one definition.
/// </summary>
internal static class OperatorSchema
{
    public const string Domain = "ernie";
    public const int Version = 1;

    /// <summary>y = x · Wᵀ, or silu of its first half times its second half.</summary>
    public static class Linear
    {
        public const string Name = "Linear";
        /// <summary>1: the weight holds gate rows, then up rows; the output is <c>silu(gate) · up</c>, half as wide.</summary>
        public const string SwiGlu = "swiglu";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("x", TensorElementKind.Float),        // [tokens, columns]
            new("weight", TensorElementKind.Any),     // [rows, columns] float or bfloat16
        ];

        public static IReadOnlyList<Port> Outputs { get; } = [new("y", TensorElementKind.Float)]; // [tokens, rows] or [tokens, rows / 2]
    }

    /// <summary>
    /// Rotation of q and k, append to the paged cache, and attention. The names of the PLAS attributes are FastDeploy's; a graph that carries them runs densely on kernels that have no
    /// block selection, which is exact below <c>plas_encoder_top_k_left · 128</c> tokens.
    /// </summary>
    public static class SparseAttention
    {
        public const string Name = "SparseAttention";
        public const string HeadCount = "num_heads";
        public const string KvHeadCount = "num_kv_heads";
        public const string HeadDim = "head_dim";
        public const string KvHeadBegin = "kv_head_begin";
        public const string KvHeadEnd = "kv_head_end";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("qkv", TensorElementKind.Float),              // [tokens, (heads + 2 kv heads) · head dim]
            new("positions", TensorElementKind.Int32),        // [tokens]
            new("sequence_starts", TensorElementKind.Int32),  // [sequences + 1]
            new("sequence_flags", TensorElementKind.Int32),   // [sequences] see SequenceFlags
            new("block_tables", TensorElementKind.Int32),     // [sequences, blocks]
            new("kv_cache", TensorElementKind.UInt8),         // [pool blocks, block bytes] see KvBlockLayout; written in place
            new("attn_gate", TensorElementKind.Float, Arity.Optional), // [kv heads, 128, head dim] learned PLAS gate
        ];

        public static IReadOnlyList<Port> Outputs { get; } = [new("y", TensorElementKind.Float)]; // [tokens, heads of the range · head dim]
    }

    /// <summary>Router, routed experts and their sum in rank order.</summary>
    public static class MoeExperts
    {
        public const string Name = "MoeExperts";
        public const string ExpertCount = "num_experts";
        public const string ExpertsPerToken = "top_k";
        public const string IntermediateSize = "intermediate_size";
        public const string NormMin = "norm_min";
        public const string ExpertBegin = "expert_begin";
        public const string ExpertEnd = "expert_end";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("x", TensorElementKind.Float),                // [tokens, hidden]
            new("router", TensorElementKind.Float),           // [experts, hidden]
            new("correction_bias", TensorElementKind.Float),  // [experts]
            new("gate_up", TensorElementKind.Any),            // [experts of the range, 2 · intermediate, hidden]
            new("down", TensorElementKind.Any),               // [experts of the range, hidden, intermediate]
        ];

        public static IReadOnlyList<Port> Outputs { get; } =
        [
            new("y", TensorElementKind.Float),                             // [tokens, hidden]
            new("selected", TensorElementKind.Int32, Arity.Optional),      // [tokens, top k] in order of probability + bias
            new("weights", TensorElementKind.Float, Arity.Optional),       // [tokens, top k]
        ];
    }
}
