namespace Ernie.Sdk.Native;

/// <summary>
/// A GPU's primary context, retained. What is made in it holds it, so the last of them to be disposed releases it.
/// </summary>
/// <remarks>Thread-safe. Members make the context current on the calling thread and leave it so: on threads that compute with ONNX Runtime's CUDA provider it is current already.</remarks>
internal sealed unsafe class CudaContext : IDisposable
{
    [ThreadStatic]
    private static bool t_ignoresOtherCaptures;

    private readonly nint _handle;
    private readonly int _device;
    private int _holders = 1;
    private int _disposed;

    internal CudaContext(CudaDevice device, nint handle, int number, CudaMemoryLimit? limit) => (Device, _handle, _device, Limit) = (device, handle, number, limit);

    public CudaDevice Device { get; }
    public CudaDriver Driver => Device.Driver;
    /// <summary>How much may be allocated; null: what there is.</summary>
    public CudaMemoryLimit? Limit { get; }

    /// <summary>Makes this the calling thread's context.</summary>
    /// <remarks>
    /// ONNX Runtime captures graphs in the global mode (cuda_graph.cc), in which allocations of every other thread of the process fail meanwhile: those of another model that is loaded, or has a step of its own. From here on
    /// captures of other threads are none of this one's business (CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).
    /// </remarks>
    public void Enter()
    {
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _holders) == 0, this);
        Driver.Check(Driver.CtxSetCurrent(_handle), "cuCtxSetCurrent");
        if (t_ignoresOtherCaptures) return;
        var mode = 1; // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        Driver.Check(Driver.ThreadExchangeStreamCaptureMode(&mode), "cuThreadExchangeStreamCaptureMode");
        t_ignoresOtherCaptures = true;
    }

    /// <summary>Device memory, with what is in it.</summary>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>.</exception>
    public CudaMemory Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        Enter();
        Limit?.Take(bytes);
        nint address;
        var result = Driver.MemAlloc(&address, checked((nuint)bytes));
        if (result != CudaResult.Success) Limit?.Give(bytes);
        Driver.Check(result, "cuMemAlloc");
        return new CudaMemory(this, address, bytes);
    }

    /// <param name="image">PTX text, or a cubin.</param>
    /// <exception cref="CudaException">The driver cannot compile it; the message ends with what it said.</exception>
    public CudaModule Load(ReadOnlySpan<byte> image)
    {
        Enter();
        return CudaModule.Load(this, image);
    }

    /// <summary>A stream that does not wait for the default one.</summary>
    public CudaStream CreateStream()
    {
        const uint NonBlocking = 1;
        Enter();
        nint stream;
        Driver.Check(Driver.StreamCreate(&stream, NonBlocking), "cuStreamCreate");
        return new CudaStream(this, stream);
    }

    /// <param name="timing">Whether <see cref="CudaEvent.MillisecondsSince"/> is wanted; events are cheaper without.</param>
    public CudaEvent CreateEvent(bool timing = false)
    {
        const uint DisableTiming = 2;
        Enter();
        nint handle;
        Driver.Check(Driver.EventCreate(&handle, timing ? 0 : DisableTiming), "cuEventCreate");
        return new CudaEvent(this, handle);
    }

    /// <summary>Pins pages of this process, so that copies from them run beside kernels at the link's full rate.</summary>
    /// <param name="address">Any address; pages around the range are meant.</param>
    /// <param name="bytes">Length.</param>
    /// <param name="readOnly">Whether the pages may not be written, as those of a file that is mapped to be read.</param>
    public CudaPinnedPages Pin(void* address, long bytes, bool readOnly)
    {
        const uint Portable = 1, ReadOnly = 8;
        Enter();
        Driver.Check(Driver.MemHostRegister(address, checked((nuint)bytes), Portable | (readOnly ? ReadOnly : 0)), "cuMemHostRegister");
        return new CudaPinnedPages(this, address);
    }

    /// <summary>Bytes that are free on the GPU now, of all processes.</summary>
    public long FreeBytes()
    {
        Enter();
        nuint free, total;
        Driver.Check(Driver.MemGetInfo(&free, &total), "cuMemGetInfo");
        return checked((long)free);
    }

    /// <summary>Waits for everything that was asked of the GPU in this context.</summary>
    public void Synchronize()
    {
        Enter();
        Driver.Check(Driver.CtxSynchronize(), "cuCtxSynchronize");
    }

    internal void Hold() => Interlocked.Increment(ref _holders);

    internal void Release()
    {
        if (Interlocked.Decrement(ref _holders) == 0) _ = Driver.DevicePrimaryCtxRelease(_device);
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0) Release();
    }
}

/// <summary>Something of the driver's that lives in a context and is destroyed once, by whichever thread.</summary>
/// <remarks>
/// No finalizer: destroying memory that a kernel may still use is for the owner to time. Errors of destruction are not thrown: the driver reports there what an earlier launch did wrong, and whoever disposes is
/// often on the way out of that very error.
/// </remarks>
internal abstract class CudaResource : IDisposable
{
    private int _disposed;

    protected CudaResource(CudaContext context)
    {
        Context = context;
        context.Hold();
    }

    public CudaContext Context { get; }
    protected CudaDriver Driver => Context.Driver;

    protected abstract void Destroy();

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        try
        {
            Context.Enter();
            Destroy();
        }
        catch (CudaException)
        {
            // The context itself is broken; what lived in it is gone.
        }
        finally
        {
            Context.Release();
        }
    }
}
