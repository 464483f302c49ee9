namespace Ernie.Sdk.Native;

/// <summary>Work of a GPU that happens in order.</summary>
internal sealed unsafe class CudaStream(CudaContext context, nint handle) : CudaResource(context)
{
    public nint Handle => handle;

    /// <summary>Waits for everything that was asked of it.</summary>
    public void Synchronize()
    {
        Context.Enter();
        Driver.Check(Driver.StreamSynchronize(handle), "cuStreamSynchronize");
    }

    /// <summary>Makes what is asked from now on wait for an event; the caller does not.</summary>
    public void Wait(CudaEvent other)
    {
        Context.Enter();
        Driver.Check(Driver.StreamWaitEvent(handle, other.Handle, 0), "cuStreamWaitEvent");
    }

    protected override void Destroy() => _ = Driver.StreamDestroy(handle);
}

/// <summary>A point in a stream.</summary>
internal sealed unsafe class CudaEvent(CudaContext context, nint handle) : CudaResource(context)
{
    public nint Handle => handle;

    /// <param name="stream">A CUstream: one of ours, or ONNX Runtime's.</param>
    public void Record(nint stream)
    {
        Context.Enter();
        Driver.Check(Driver.EventRecord(handle, stream), "cuEventRecord");
    }

    public void Synchronize()
    {
        Context.Enter();
        Driver.Check(Driver.EventSynchronize(handle), "cuEventSynchronize");
    }

    /// <summary>Whether the GPU has come so far.</summary>
    public bool HasPassed()
    {
        Context.Enter();
        var result = Driver.EventQuery(handle);
        if (result == CudaResult.NotReady) return false;
        Driver.Check(result, "cuEventQuery");
        return true;
    }

    /// <summary>Time between two events that both have passed and were created with timing.</summary>
    public float MillisecondsSince(CudaEvent start)
    {
        Context.Enter();
        float milliseconds;
        Driver.Check(Driver.EventElapsedTime(&milliseconds, start.Handle, handle), "cuEventElapsedTime");
        return milliseconds;
    }

    protected override void Destroy() => _ = Driver.EventDestroy(handle);
}
