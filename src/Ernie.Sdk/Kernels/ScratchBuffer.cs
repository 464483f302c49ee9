using System.Runtime.InteropServices;

namespace Ernie.Sdk.Kernels;

/// <summary>One growing block of unmanaged memory, 64-byte aligned. A call to <see cref="Rent"/> invalidates what the last one returned.</summary>
internal sealed unsafe class ScratchBuffer : IDisposable
{
    private void* _data;
    private nuint _bytes;

    public long Bytes => (long)_bytes;

    public byte* Rent(nint bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        if ((nuint)bytes <= _bytes && _data != null) return (byte*)_data;
        NativeMemory.AlignedFree(_data);
        _data = null;
        _bytes = 0;
        var size = (nuint)Math.Max(bytes, 4096);
        _data = NativeMemory.AlignedAlloc(size, 64);
        _bytes = size;
        return (byte*)_data;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_data);
        _data = null;
        _bytes = 0;
        GC.SuppressFinalize(this);
    }

    ~ScratchBuffer() => NativeMemory.AlignedFree(_data);
}
