namespace Ernie.Sdk.Kernels;

/// <summary>The scratch block of <see cref="VectorExperts{TLanes}"/> for one chunk of tokens, cut into its parts.</summary>
internal readonly unsafe struct ExpertsScratch
{
    private const int Alignment = 64;

    public ExpertsScratch(in ExpertsArguments a, byte* memory)
    {
        nint pairs = (nint)a.TokenCount * a.ExpertsPerToken;
        Logits = Take<float>(ref memory, (nint)a.TokenCount * a.ExpertCount);
        Weights = Take<float>(ref memory, pairs);
        Selected = Take<int>(ref memory, pairs);
        Assignments = new ExpertAssignments
        {
            Slots = Take<int>(ref memory, pairs),
            Tokens = Take<int>(ref memory, pairs),
            Starts = Take<int>(ref memory, a.ExpertCount + 1),
            Active = Take<int>(ref memory, a.ExpertCount),
        };
        if (a.GateUp.Format.IsPacked) Input = Take<byte>(ref memory, a.TokenCount * ActivationRow.Bytes(a.HiddenSize));
        if (a.Down.Format.IsPacked) QuantizedActivations = Take<byte>(ref memory, pairs * ActivationRow.Bytes(a.IntermediateSize));
        else Activations = Take<float>(ref memory, pairs * a.IntermediateSize);
        Outputs = Take<float>(ref memory, pairs * a.HiddenSize);
    }

    /// <summary>[tokens, experts] logits, then probabilities.</summary>
    public float* Logits { get; }
    /// <summary>[tokens, k]</summary>
    public float* Weights { get; }
    /// <summary>[tokens, k]</summary>
    public int* Selected { get; }
    public ExpertAssignments Assignments { get; }
    /// <summary>[tokens] rows of <see cref="ActivationRow"/>; packed weights only.</summary>
    public byte* Input { get; }
    /// <summary>[slots, intermediate] silu(gate) · up; row-major weights only.</summary>
    public float* Activations { get; }
    /// <summary>[slots] rows of <see cref="ActivationRow"/>: silu(gate) · up; packed weights only.</summary>
    public byte* QuantizedActivations { get; }
    /// <summary>[slots, hidden] each expert's output; readable for 16 floats past its end.</summary>
    public float* Outputs { get; }

    /// <summary>Bytes for <paramref name="tokenCount"/> tokens; at least a constant and linear in the tokens, so a chunk may be sized by the bytes of one token.</summary>
    public static nint Bytes(in ExpertsArguments a, int tokenCount)
    {
        var pairs = (nint)a.ExpertsPerToken;
        var token = sizeof(float) * (a.ExpertCount + pairs * (4 + a.HiddenSize));
        token += a.Down.Format.IsPacked ? ActivationRow.Bytes(a.HiddenSize) + pairs * ActivationRow.Bytes(a.IntermediateSize) : pairs * a.IntermediateSize * sizeof(float);
        return checked(token * tokenCount + sizeof(int) * (2 * (nint)a.ExpertCount + 1) + 20 * Alignment);
    }

    private static T* Take<T>(ref byte* memory, nint count) where T : unmanaged
    {
        var taken = (T*)memory;
        memory += (count * sizeof(T) + Alignment - 1) / Alignment * Alignment;
        return taken;
    }
}
