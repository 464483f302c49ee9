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

    /// <summary>Whether prompts read all blocks before them, and decode steps theirs, so that none are selected.</summary>
    public bool PrefillIsDense { get; init; }

    /// <inheritdoc cref="PrefillIsDense"/>
    public bool DecodeIsDense { get; init; }

    /// <summary>Where the step's packs go, once a layer has made them (<see cref="ICudaLauncher.Keep"/>).</summary>
    public void* Packs { get; set; }

    /// <summary>Cache of the layer that made them. When it comes again, the step runs anew: ONNX Runtime does so in one call to capture it, and a graph without their making would replay those of the step that it was captured in.</summary>
    public void* PacksMadeBy { get; set; }

    /// <summary>Whether kernels quantise what they put out where they can: products with packed weights read it so.</summary>
    public bool Quantises { get; init; }

    /// <summary>Of the last norm, for all that read it before the next one.</summary>
    public QuantisedOutput Norm { get; } = new();

    /// <summary>Of attention or a SwiGLU, for the product that follows.</summary>
    public QuantisedOutput Next { get; } = new();

    /// <summary>Something is written at an address: what was there is no more.</summary>
    public void Written(float* output)
    {
        Norm.Forget(output);
        Next.Forget(output);
    }
}

/// <summary>Memory for rows as codes and scales (linear.cu) beside the floats that they stand for, taken once and used again.</summary>
internal sealed unsafe class QuantisedOutput
{
    private QuantisedRows _memory;
    private float* _source;
    private int _rows, _columns;

    /// <summary>Of the codes.</summary>
    public nint Address => _memory.Codes;

    /// <summary>Codes of these floats; null: there are none.</summary>
    public QuantisedRows? Of(float* source, int rows, int columns) => _source == source && source != null && _rows == rows && _columns == columns ? _memory : null;

    /// <summary>Makes room for an output. Before its operator rents any scratch memory, which would be kept with it.</summary>
    public void Reserve(int rows, int columns, Func<int, int, QuantisedRows> allocate)
    {
        if ((long)_memory.Rows * _memory.Columns >= (long)rows * ((columns + 31) / 32 * 32)) return;
        _memory = allocate(rows, columns);
        _source = null;
    }

    /// <summary>Where the codes of an output go, for which there is room, and which a kernel writes now.</summary>
    public QuantisedRows Begin(float* source, int rows, int columns)
    {
        _source = source;
        (_rows, _columns) = (rows, columns);
        return _memory;
    }

    public void Forget() => _source = null;

    public void Forget(float* written)
    {
        if (_source == written) _source = null;
    }
}

/// <summary>Room for rows as codes and scales of blocks of 32 columns, in device memory.</summary>
internal readonly record struct QuantisedRows(nint Codes, nint Scales, int Rows, int Columns);
