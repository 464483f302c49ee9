using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>What the CUDA operators of one session share: the GPU's context, its kernels, the table of rotary angles, memory for passing numbers on, and the way of weights to the GPU.</summary>
/// <remarks>
/// Weights are inputs in the CPU's memory, so ONNX Runtime leaves them in the mapped file; each kernel sends its own to the GPU when it is created and frees them when it is destroyed. Dispose after the session.
/// </remarks>
internal sealed unsafe class CudaOperatorEnvironment : IDisposable
{
    public const string CudaProvider = "CUDAExecutionProvider";

    private readonly CudaContext _context;
    private readonly CudaMemory _rope;
    private readonly CudaWorkspace _workspace;
    private CudaUpload? _upload;
    private CudaStep? _step;

    /// <param name="device">The GPU, whose number is the provider's <c>device_id</c>.</param>
    /// <param name="kernels">What is launched.</param>
    /// <param name="layout">Blocks of the cache.</param>
    /// <param name="rope">Rotary angles of every position.</param>
    /// <param name="choices">Where the routers' choices are kept until they are counted; null: nowhere.</param>
    /// <param name="provider">The provider whose nodes these operators compute.</param>
    /// <param name="hostExperts">Experts that stay on the CPU; null: none. They need <paramref name="choices"/>.</param>
    /// <param name="limit">How much memory may be taken; null: what there is.</param>
    public CudaOperatorEnvironment(CudaDevice device, CudaKernels kernels, KvBlockLayout layout, RopeTable rope, CudaExpertChoices? choices = null, string? provider = CudaProvider, CudaHostExperts? hostExperts = null, CudaMemoryLimit? limit = null)
    {
        (Kernels, Layout, Rope, Choices, Provider, HostExperts) = (kernels, layout, rope, choices, provider, hostExperts);
        _context = device.Retain(limit);
        _workspace = new CudaWorkspace(_context);
        try
        {
            _upload = new CudaUpload(_context);
            _rope = SendRope(_upload, rope);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public CudaKernels Kernels { get; }
    public KvBlockLayout Layout { get; }
    public RopeTable Rope { get; }
    public CudaExpertChoices? Choices { get; }
    public CudaHostExperts? HostExperts { get; }
    public string? Provider { get; }

    /// <summary>Told of the bytes of each weight that was sent. What it throws ends the creation of the session.</summary>
    public Action<long>? Sent { get; init; }

    /// <summary>Whether a product of the session has packed weights.</summary>
    public bool HasPackedWeights { get; set; }

    /// <summary>Where the cache lies, if that is known: a copy that ONNX Runtime made of it would be written to in vain.</summary>
    public (nint Begin, nint End)? Cache { get; set; }

    /// <summary>What a kernel threw, which ONNX Runtime reports as text; the first since it was last cleared.</summary>
    public Exception? Failure { get; private set; }

    /// <summary>The operators of domain <see cref="OperatorSchema.Domain"/> for the GPU, bound to this environment.</summary>
    public IEnumerable<CustomOperator> Operators() => [new CudaAddRmsNormOperator(this), new CudaLinearOperator(this), new CudaSparseAttentionOperator(this), new CudaMoeExpertsOperator(this)];

    /// <summary>Changes when what operators pass between their kernels moves, or the routers' choices do.</summary>
    public (int, nint) Places => (_workspace.Moves, Choices?.Address ?? 0);

    /// <summary>Takes memory for what an operator passes between its kernels.</summary>
    public void Reserve(long bytes) => _workspace.Reserve(bytes);

    /// <summary>Ends sending: the session has all its kernels. Frees the pinned buffers.</summary>
    public void EndUpload()
    {
        _upload?.Dispose();
        _upload = null;
    }

    /// <summary>Memory on the GPU with the contents of an initializer.</summary>
    public CudaMemory Send(void* source, long bytes)
    {
        var memory = (_upload ??= new CudaUpload(_context)).Send((byte*)source, bytes);
        try
        {
            Sent?.Invoke(bytes);
            return memory;
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    /// <summary>Makes the GPU's context current and says what one call may use.</summary>
    public CudaKernelContext Enter(OrtComputeContext call)
    {
        _context.Enter();
        return new CudaKernelContext(call.GpuStream, (float*)_rope.Address, _workspace, _step);
    }

    /// <summary>A step begins: what failed before is over.</summary>
    /// <param name="kind">What sequences it has.</param>
    /// <param name="prefillIsDense">Whether its prompts read all blocks.</param>
    /// <param name="decodeIsDense">Whether its decode steps do.</param>
    public void BeginStep(CudaStepKind kind, bool prefillIsDense, bool decodeIsDense)
    {
        Failure = null;
        _workspace.Release();
        _step = new CudaStep(kind) { Quantises = HasPackedWeights, PrefillIsDense = prefillIsDense, DecodeIsDense = decodeIsDense };
    }

    /// <summary>The GPU has done all that the step asked of it.</summary>
    public void EndStep()
    {
        _step = null;
        _workspace.Join();
    }

    public void Fail(Exception failure) => Failure ??= failure;

    public void Dispose()
    {
        EndUpload();
        _workspace.Dispose();
        _rope?.Dispose();
        _context.Dispose();
    }

    private static CudaMemory SendRope(CudaUpload upload, RopeTable rope)
    {
        rope.Ensure(rope.PositionCount - 1);
        var row = rope.Row(0).Length;
        var bytes = checked((long)rope.PositionCount * row * sizeof(float));
        var table = (float*)NativeMemory.Alloc((nuint)bytes);
        try
        {
            for (var position = 0; position < rope.PositionCount; position++) rope.Row(position).CopyTo(new Span<float>(table + (long)position * row, row));
            return upload.Send((byte*)table, bytes);
        }
        finally
        {
            NativeMemory.Free(table);
        }
    }
}
