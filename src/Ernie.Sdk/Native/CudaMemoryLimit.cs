namespace Ernie.Sdk.Native;

/// <summary>How much device memory some contexts of one GPU may take together. Thread-safe.</summary>
internal sealed class CudaMemoryLimit(long bytes)
{
    private long _taken;

    /// <exception cref="CudaException"><see cref="CudaException.IsOutOfMemory"/>: it would be too much.</exception>
    public void Take(long count)
    {
        if (Interlocked.Add(ref _taken, count) <= bytes) return;
        Give(count);
        throw new CudaException(CudaResult.OutOfMemory, "cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", $"{count:N0} bytes more would exceed the limit that was set");
    }

    public void Give(long count) => Interlocked.Add(ref _taken, -count);
}
