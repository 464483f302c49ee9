namespace Ernie.Sdk.Kernels;

/// <summary>sum = x + (a + b), and its RMS norm.</summary>
internal unsafe struct AddRmsNormArguments
{
    /// <summary>[tokens, columns] float.</summary>
    public float* Input;
    /// <summary>[tokens, columns] float, or null.</summary>
    public float* First;
    /// <summary>[tokens, columns] float, or null, as it is without <see cref="First"/>.</summary>
    public float* Second;
    /// <summary>[columns] float.</summary>
    public float* Weight;
    public int TokenCount;
    public int Columns;
    public float Epsilon;
    /// <summary>[tokens, columns] float, or null.</summary>
    public float* Sum;
    /// <summary>[tokens, columns] float.</summary>
    public float* Output;
}

/// <summary>y = x · Wᵀ, or its SwiGLU.</summary>
internal unsafe struct LinearArguments
{
    /// <summary>[tokens, columns of the weight] float.</summary>
    public float* Input;
    public int TokenCount;
    public PackedMatrix Weight;
    /// <summary>
    /// When set, the first half of the weight's rows is the gate and the second half is "up": the output is <c>silu(gate) · up</c>, [tokens, rows / 2].
    /// </summary>
    public bool SwiGlu;
    /// <summary>[tokens, rows] or [tokens, rows / 2] float.</summary>
    public float* Output;

    public readonly nint OutputSize => SwiGlu ? Weight.Rows / 2 : Weight.Rows;
}

/// <summary>Rotation, append to the cache, and attention of one step's tokens. Sequences of the step lie one after another.</summary>
internal unsafe struct AttentionArguments
{
    /// <summary>[tokens, heads + 2 · kvHeads, headDim] float: q, then k, then v, not rotated yet.</summary>
    public float* Qkv;
    public int TokenCount;
    /// <summary>[tokens] absolute position of each token; consecutive inside a sequence.</summary>
    public int* Positions;
    /// <summary>[sequences + 1] first token of each sequence; the last entry is the token count.</summary>
    public int* SequenceStarts;
    public int SequenceCount;
    /// <summary>[sequences] bits of <see cref="SequenceFlags"/>.</summary>
    public int* Flags;
    /// <summary>[sequences, <see cref="BlockTableStride"/>] block of the pool that holds positions 128·j .. 128·j+127.</summary>
    public int* BlockTables;
    public int BlockTableStride;
    /// <summary>[sequences] how many blocks are read, or null: all.</summary>
    public SparseLimits* Limits;
    /// <summary>[kvHeads, 128, headDim] float: learned gate of the block summaries that prefill selects by, or null: means. Decode always selects by means.</summary>
    public float* Gate;
    /// <summary>Prefill reads every block whatever the limits say: the last layer of a model with gates has none and is not selected.</summary>
    public bool DensePrefill;
    /// <summary>Told which blocks were selected, or null.</summary>
    public BlockSelections? Selections;
    /// <summary>[blocks, <see cref="KvBlockLayout.BlockBytes"/>] this layer's part of the cache.</summary>
    public byte* Pool;
    public int PoolBlockCount;
    public KvBlockLayout Layout;
    public RopeTable Rope;
    public int HeadCount;
    public int KvHeadCount;
    public int HeadDim;
    /// <summary>KV heads [begin, end) are computed; the output holds their query heads only. The layout and pool hold all <see cref="KvHeadCount"/>.</summary>
    public int KvHeadBegin;
    public int KvHeadEnd;
    /// <summary>[tokens, (end - begin) · heads / kvHeads, headDim] float.</summary>
    public float* Output;
}

[Flags]
internal enum SequenceFlags
{
    None = 0,
    /// <summary>The sequence's one token is a decode step: sparse attention selects by the decoder's rule.</summary>
    Decode = 1,
    /// <summary>The request has ended: its rows are not computed and hold zeros.</summary>
    Dead = 2,
}

/// <summary>Router, routed experts and their weighted sum.</summary>
internal unsafe struct ExpertsArguments
{
    /// <summary>[tokens, hidden] float.</summary>
    public float* Input;
    public int TokenCount;
    public int HiddenSize;
    public int ExpertCount;
    public int ExpertsPerToken;
    public int IntermediateSize;
    /// <summary>Floor of the sum that the chosen probabilities are divided by (<c>moe_norm_min</c>).</summary>
    public float NormMin;
    /// <summary>[experts, hidden] float; null where <see cref="Selected"/> and <see cref="Weights"/> say what a router has chosen.</summary>
    public float* Router;
    /// <summary>[experts] float; added to the probabilities for selection only.</summary>
    public float* CorrectionBias;
    /// <summary>Experts [begin, end) are computed here, the stacks below hold only these; every expert takes part in routing.</summary>
    public int ExpertBegin;
    public int ExpertEnd;
    /// <summary>
    /// [experts] which of the stacks' end - begin experts an expert is, -1 for one that is computed elsewhere; null: those of the range, in order. Only kernels of a GPU know it: <see cref="ExpertBegin"/> is 0 then.
    /// </summary>
    public int* Slots;
    /// <summary>[(end - begin) · 2 · intermediate, hidden]: per expert its gate rows, then its up rows.</summary>
    public PackedMatrix GateUp;
    /// <summary>[(end - begin) · hidden, intermediate].</summary>
    public PackedMatrix Down;
    /// <summary>[tokens, hidden] float: the partial sum over this range of experts, in rank order.</summary>
    public float* Output;
    /// <summary>[tokens, experts per token] chosen experts in order of probability + bias, or null.</summary>
    public int* Selected;
    /// <summary>[tokens, experts per token] their weights, or null.</summary>
    public float* Weights;
}
