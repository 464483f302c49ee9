using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Native;

/// <summary>The session's own intra-op pool, inside a kernel call. One instance serves all kernels of a session, which never run at the same time.</summary>
internal sealed unsafe class OrtThreadPool : IParallelRunner, IDisposable
{
    private GCHandle _self;
    private OrtComputeContext _context;
    private Action<int>? _body;
    private ExceptionDispatchInfo? _failure;

    public OrtThreadPool(int threadCount)
    {
        ThreadCount = threadCount;
        _self = GCHandle.Alloc(this);
    }

    public int ThreadCount { get; }

    /// <summary>Names the call whose pool the next <see cref="For"/> uses.</summary>
    public void Enter(OrtComputeContext context) => _context = context;

    public void For(int count, Action<int> body)
    {
        if (count <= 1 || ThreadCount == 1)
        {
            SerialRunner.Instance.For(count, body);
            return;
        }
        _body = body;
        _failure = null;
        _context.ParallelFor(&Run, count, (void*)GCHandle.ToIntPtr(_self));
        _body = null;
        _failure?.Throw();
    }

    // An exception that left this method would end the process.
    [UnmanagedCallersOnly]
    private static void Run(void* state, nuint index)
    {
        var pool = Unsafe.As<OrtThreadPool>(GCHandle.FromIntPtr((nint)state).Target!);
        try
        {
            if (pool._failure is null) pool._body!((int)index);
        }
#pragma warning disable CA1031
        catch (Exception e)
#pragma warning restore CA1031
        {
            pool._failure = ExceptionDispatchInfo.Capture(e);
        }
    }

    public void Dispose()
    {
        if (_self.IsAllocated) _self.Free();
    }
}
