namespace Ernie.Sdk.Kernels;

/// <summary>What is known of the sequences of a step before it runs.</summary>
internal enum CudaStepKind
{
    /// <summary>Nothing.</summary>
    Mixed,
    /// <summary>Each has one token, which is a decode step, or has ended.</summary>
    Decode,
    /// <summary>None is a decode step.</summary>
    Prefill,
}

/// <summary>What the operators of one step have in common: every layer has the same tokens of the same sequences.</summary>
/// <param name="kind">Kernels for what there is not are not launched.</param>
internal sealed unsafe class CudaStep(CudaStepKind kind)
{
    public CudaStepKind Kind => kind;

    /// <summary>The step's packs, once a layer has made them (<see cref="ICudaLauncher.Keep"/>).</summary>
    public void* Packs { get; set; }

    /// <summary>Whether norms quantise what they put out: products with packed weights read it so.</summary>
    public bool QuantisesNorms { get; init; }

    /// <summary>Memory for a quantised norm, once one was made; every norm of the step has the same tokens, and is read before the next is written.</summary>
    public QuantisedRows Codes { get; set; }

    /// <summary>The output of the norm that <see cref="Codes"/> has; null: of none, or something else was written over it since.</summary>
    public float* Norm { get; set; }
}

/// <summary>Rows as codes and scales of blocks of 32 columns (linear.cu), in device memory.</summary>
internal readonly unsafe record struct QuantisedRows(nint Codes, nint Scales, int Rows, int Columns)
{
}
