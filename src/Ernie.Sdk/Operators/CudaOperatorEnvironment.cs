using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Operators;

/// <summary>What the CUDA operators of one session share: the GPU's context, its kernels, the table of rotary angles and the way of weights to the GPU.</summary>
/// <remarks>
/// Weights are inputs in the CPU's memory, so ONNX Runtime leaves them in the mapped file; each kernel sends its own to the GPU when it is created and frees them when it is destroyed. Dispose after the session.
/// </remarks>
internal sealed unsafe class CudaOperatorEnvironment : IDisposable
{
    public const string CudaProvider = "CUDAExecutionProvider";

    private readonly CudaContext _context;
    private readonly CudaMemory _rope;
    private readonly OrtMemoryInfo _scratch;
    private CudaUpload? _upload;

    /// <param name="device">The GPU, whose number is the provider's <c>device_id</c>.</param>
    /// <param name="kernels">What is launched.</param>
    /// <param name="layout">Blocks of the cache.</param>
    /// <param name="rope">Rotary angles of every position.</param>
    /// <param name="provider">The provider whose nodes these operators compute.</param>
    /// <param name="allocator">Name of that provider's device memory.</param>
    public CudaOperatorEnvironment(CudaDevice device, CudaKernels kernels, KvBlockLayout layout, RopeTable rope, string? provider = CudaProvider, string allocator = OrtMemoryInfoCuda)
    {
        (Kernels, Layout, Rope, Provider) = (kernels, layout, rope, provider);
        _context = device.Retain();
        try
        {
            _upload = new CudaUpload(_context);
            _rope = SendRope(_upload, rope);
            _scratch = new OrtMemoryInfo(allocator, OrtAllocatorType.DeviceAllocator, device.Ordinal, OrtMemType.Default);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private const string OrtMemoryInfoCuda = "Cuda";

    public CudaKernels Kernels { get; }
    public KvBlockLayout Layout { get; }
    public RopeTable Rope { get; }
    public string? Provider { get; }

    /// <summary>The operators of domain <see cref="OperatorSchema.Domain"/> for the GPU, bound to this environment.</summary>
    public IEnumerable<CustomOperator> Operators() => [new CudaLinearOperator(this), new CudaSparseAttentionOperator(this), new CudaMoeExpertsOperator(this)];

    /// <summary>Ends sending: the session has all its kernels. Frees the pinned buffers.</summary>
    public void EndUpload()
    {
        _upload?.Dispose();
        _upload = null;
    }

    /// <summary>Memory on the GPU with the contents of an initializer.</summary>
    public CudaMemory Send(void* source, long bytes) => (_upload ??= new CudaUpload(_context)).Send((byte*)source, bytes);

    /// <summary>Makes the GPU's context current and says what one call may use.</summary>
    public CudaKernelContext Enter(OrtComputeContext call)
    {
        _context.Enter();
        return new CudaKernelContext(call, _scratch, (float*)_rope.Address);
    }

    public void Dispose()
    {
        EndUpload();
        _rope?.Dispose();
        _scratch?.Dispose();
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
