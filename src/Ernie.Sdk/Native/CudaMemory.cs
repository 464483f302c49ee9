namespace Ernie.Sdk.Native;

/// <summary>Device memory.</summary>
internal sealed unsafe class CudaMemory(CudaContext context, nint address, long bytes) : CudaResource(context)
{
    /// <summary>CUdeviceptr: means nothing to the CPU.</summary>
    public nint Address => address;
    public long Bytes => bytes;

    /// <summary>Asks for a copy to the device. From pages that are not pinned the driver copies in pieces of its own, and the call lasts as long.</summary>
    /// <param name="source">Must stay as it is until the stream has come so far.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="offset">Where to in this memory.</param>
    /// <param name="stream">Null for the default stream.</param>
    public void CopyFrom(void* source, long length, long offset = 0, CudaStream? stream = null)
    {
        CheckRange(length, offset);
        Context.Enter();
        Driver.Check(Driver.MemcpyHtoDAsync(address + (nint)offset, source, (nuint)length, stream?.Handle ?? 0), "cuMemcpyHtoDAsync");
    }

    /// <summary>Asks for a copy from the device.</summary>
    /// <param name="destination">Holds it when the stream has come so far.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="offset">Where from in this memory.</param>
    /// <param name="stream">Null for the default stream.</param>
    public void CopyTo(void* destination, long length, long offset = 0, CudaStream? stream = null)
    {
        CheckRange(length, offset);
        Context.Enter();
        Driver.Check(Driver.MemcpyDtoHAsync(destination, address + (nint)offset, (nuint)length, stream?.Handle ?? 0), "cuMemcpyDtoHAsync");
    }

    /// <summary>Asks for a copy from other device memory.</summary>
    public void CopyFrom(CudaMemory source, long length, long sourceOffset = 0, long offset = 0, CudaStream? stream = null)
    {
        source.CheckRange(length, sourceOffset);
        CheckRange(length, offset);
        Context.Enter();
        Driver.Check(Driver.MemcpyDtoDAsync(address + (nint)offset, source.Address + (nint)sourceOffset, (nuint)length, stream?.Handle ?? 0), "cuMemcpyDtoDAsync");
    }

    /// <summary>Asks for zeros.</summary>
    public void Clear(CudaStream? stream = null)
    {
        Context.Enter();
        Driver.Check(Driver.MemsetD8Async(address, 0, (nuint)bytes, stream?.Handle ?? 0), "cuMemsetD8Async");
    }

    protected override void Destroy()
    {
        _ = Driver.MemFree(address);
        Context.Limit?.Give(bytes);
    }

    private void CheckRange(long length, long offset)
    {
        if (length < 0 || offset < 0 || offset > bytes - length) throw new ArgumentOutOfRangeException(nameof(length), length, $"{length} bytes at {offset} are not inside {bytes}.");
    }
}

/// <summary>Pages of this process that the system may not move or drop.</summary>
internal sealed unsafe class CudaPinnedPages(CudaContext context, void* address) : CudaResource(context)
{
    protected override void Destroy() => _ = Driver.MemHostUnregister(address);
}
