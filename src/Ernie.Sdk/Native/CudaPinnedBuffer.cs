using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>Memory of this process that the system may not move: copies between it and a GPU run beside kernels.</summary>
internal sealed unsafe class CudaPinnedBuffer : IDisposable
{
    private readonly CudaPinnedPages _pages;
    private byte* _address;

    public CudaPinnedBuffer(CudaContext context, long bytes)
    {
        Bytes = bytes;
        _address = (byte*)NativeMemory.AlignedAlloc(checked((nuint)bytes), (nuint)Environment.SystemPageSize);
        try
        {
            _pages = context.Pin(_address, bytes, readOnly: false);
        }
        catch
        {
            NativeMemory.AlignedFree(_address);
            throw;
        }
    }

    public byte* Address => _address;
    public long Bytes { get; }

    /// <summary>Only while no copy is under way.</summary>
    public void Dispose()
    {
        _pages.Dispose();
        NativeMemory.AlignedFree(_address);
        _address = null;
    }
}
