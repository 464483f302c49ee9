using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Operators;

/// <summary>
/// The contract between the exported graph and the kernels: names, order and types of inputs, outputs and attributes. The exporter and the operators read this one definition.
/// </summary>
internal static class OperatorSchema
{
    public const string Domain = "ernie";
    public const int Version = 1;

    /// <summary>
    /// Attributes that describe a packed weight; a node over float or bfloat16 rows has none of them. Bits and block size are called as in ONNX Runtime's MatMulNBits and together give the
    /// <see cref="WeightFormat"/>.
    /// </summary>
    public static class Packed
    {
        /// <summary>8, 4, or 2 for WINT2.</summary>
        public const string Bits = "bits";
        /// <summary>Inputs that share a scale; 0: all inputs of a row do.</summary>
        public const string BlockSize = "block_size";
        /// <summary>Rows of the matrix; a <see cref="Linear"/> node has it where the weight is packed.</summary>
        public const string Rows = "N";
        /// <summary>Columns of the matrix, likewise.</summary>
        public const string Columns = "K";
        public const string GateUpBits = "gate_up_bits";
        public const string GateUpBlockSize = "gate_up_block_size";
        public const string DownBits = "down_bits";
        public const string DownBlockSize = "down_block_size";

        public static int BitsOf(WeightFormat format) => format.Kind switch
        {
            WeightKind.Int8 => 8,
            WeightKind.Int4 => 4,
            WeightKind.Int2 => 2,
            _ => throw new ArgumentException($"{format} is not packed.", nameof(format)),
        };

        /// <summary>Null if there is no such format.</summary>
        public static WeightFormat? FormatOf(int bits, int blockSize)
        {
            var kind = bits switch { 8 => WeightKind.Int8, 4 => WeightKind.Int4, 2 => WeightKind.Int2, _ => WeightKind.Float32 };
            var format = new WeightFormat(kind, blockSize);
            return format is { IsPacked: true, IsValid: true } ? format : null;
        }
    }

    /// <summary>The residual stream takes up what a block computed, and its RMS norm: sum = x + (a + b), y = sum / sqrt(mean(sum²) + epsilon) · weight.</summary>
    public static class AddRmsNorm
    {
        public const string Name = "AddRmsNorm";
        public const string Epsilon = "epsilon";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("x", TensorElementKind.Float),                 // [tokens, hidden]
            new("weight", TensorElementKind.Float),            // [hidden]
            new("a", TensorElementKind.Float, Arity.Optional), // [tokens, hidden]
            new("b", TensorElementKind.Float, Arity.Optional), // [tokens, hidden], only beside a
        ];

        public static IReadOnlyList<Port> Outputs { get; } =
        [
            new("y", TensorElementKind.Float),                   // [tokens, hidden]
            new("sum", TensorElementKind.Float, Arity.Optional), // [tokens, hidden]
        ];
    }

    /// <summary>y = x · Wᵀ, or silu of its first half times its second half.</summary>
    public static class Linear
    {
        public const string Name = "Linear";
        /// <summary>1: the weight holds gate rows, then up rows; the output is <c>silu(gate) · up</c>, half as wide.</summary>
        public const string SwiGlu = "swiglu";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("x", TensorElementKind.Float),        // [tokens, columns]
            new("weight", TensorElementKind.Any),     // [rows, columns] float or bfloat16, or uint8 [panels, panel bytes]
        ];

        public static IReadOnlyList<Port> Outputs { get; } = [new("y", TensorElementKind.Float)]; // [tokens, rows] or [tokens, rows / 2]
    }

    /// <summary>Rotation of q and k, append to the paged cache, and attention over all blocks or, by each sequence's limits, over selected ones (PLAS).</summary>
    public static class SparseAttention
    {
        public const string Name = "SparseAttention";
        public const string HeadCount = "num_heads";
        public const string KvHeadCount = "num_kv_heads";
        public const string HeadDim = "head_dim";
        public const string KvHeadBegin = "kv_head_begin";
        public const string KvHeadEnd = "kv_head_end";
        /// <summary>1: prefill reads every block whatever the limits say. Only the last layer of a model with gates has it.</summary>
        public const string DensePrefill = "dense_prefill";

        public static IReadOnlyList<Port> Inputs { get; } =
        [
            new("qkv", TensorElementKind.Float),              // [tokens, (heads + 2 kv heads) · head dim]
            new("positions", TensorElementKind.Int32),        // [tokens]
            new("sequence_starts", TensorElementKind.Int32),  // [sequences + 1]
            new("sequence_flags", TensorElementKind.Int32),   // [sequences] see SequenceFlags
            new("block_tables", TensorElementKind.Int32),     // [sequences, blocks]
            new("sparse_limits", TensorElementKind.Int32),    // [sequences, 6] see SparseLimits
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
            new("gate_up", TensorElementKind.Any),            // [experts of the range, 2 · intermediate, hidden], or uint8 panels, a section for each half
            new("down", TensorElementKind.Any),               // [experts of the range, hidden, intermediate], or uint8 panels, a section for each expert
        ];

        public static IReadOnlyList<Port> Outputs { get; } =
        [
            new("y", TensorElementKind.Float),                             // [tokens, hidden]
            new("selected", TensorElementKind.Int32, Arity.Optional),      // [tokens, top k] in order of probability + bias
            new("weights", TensorElementKind.Float, Arity.Optional),       // [tokens, top k]
        ];
    }
}
