using System.Runtime.InteropServices;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>Unmanaged memory of exactly <paramref name="length"/> elements, for kernels that take pointers.</summary>
internal sealed unsafe class NativeArray<T>(nint length) : IDisposable where T : unmanaged
{
    public T* Pointer { get; } = (T*)NativeMemory.AlignedAlloc((nuint)Math.Max(1, length * sizeof(T)), 64);
    public nint Length => length;
    public Span<T> Span => new(Pointer, checked((int)length));

    public static NativeArray<T> From(ReadOnlySpan<T> values)
    {
        var array = new NativeArray<T>(values.Length);
        values.CopyTo(array.Span);
        return array;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(Pointer);
        GC.SuppressFinalize(this);
    }

    ~NativeArray() => NativeMemory.AlignedFree(Pointer);
}
