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
    private volatile bool _isBrokenOff;

    public OrtThreadPool(int threadCount)
    {
        ThreadCount = threadCount;
        _self = GCHandle.Alloc(this);
    }

    public int ThreadCount { get; }

    /// <summary>While set, by any thread, items are left out and <see cref="For"/> throws <see cref="OperationCanceledException"/>: a kernel over a long prompt need not come to its end.</summary>
    public bool IsBrokenOff { set => _isBrokenOff = value; }

    /// <summary>Names the call whose pool the next <see cref="For"/> uses.</summary>
    public void Enter(OrtComputeContext context) => _context = context;

    public void For(int count, Action<int> body)
    {
        if (count <= 1 || ThreadCount == 1)
        {
            for (var i = 0; i < count && !_isBrokenOff; i++) body(i);
            if (_isBrokenOff) throw new OperationCanceledException();
            return;
        }
        _body = body;
        _failure = null;
        _context.ParallelFor(&Run, count, (void*)GCHandle.ToIntPtr(_self));
        _body = null;
        _failure?.Throw();
        if (_isBrokenOff) throw new OperationCanceledException();
    }

    // An exception that left this method would end the process.
    [UnmanagedCallersOnly]
    private static void Run(void* state, nuint index)
    {
        var pool = Unsafe.As<OrtThreadPool>(GCHandle.FromIntPtr((nint)state).Target!);
        try
        {
            if (pool._failure is null && !pool._isBrokenOff) pool._body!((int)index);
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
