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
}
