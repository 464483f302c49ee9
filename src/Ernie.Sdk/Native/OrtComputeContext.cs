namespace Ernie.Sdk.Native;

/// <summary>One call of a kernel: its inputs, outputs, and ONNX Runtime's thread pool.</summary>
internal readonly unsafe struct OrtComputeContext(nint handle)
{
    public TensorView Input(int index)
    {
        nint value;
        Ort.Check(((delegate* unmanaged<nint, nuint, nint*, nint>)Ort.Api->KernelContext_GetInput)(handle, (nuint)index, &value));
        return value == 0 ? default : TensorView.Of(value);
    }

    /// <summary>Allocates an output; null for an optional output that the graph leaves out.</summary>
    /// <exception cref="InsufficientMemoryException">The provider's allocator has no memory for it.</exception>
    public void* Output(int index, params ReadOnlySpan<long> shape)
    {
        nint value;
        fixed (long* p = shape)
            Ort.Check(((delegate* unmanaged<nint, nuint, long*, nuint, nint*, nint>)Ort.Api->KernelContext_GetOutput)(handle, (nuint)index, p, (nuint)shape.Length, &value));
        if (value == 0) return null;
        void* data;
        Ort.Check(((delegate* unmanaged<nint, void**, nint>)Ort.Api->GetTensorMutableData)(value, &data));
        // Some providers' allocators throw, others return nothing.
        if (data == null && !shape.Contains(0)) throw new InsufficientMemoryException($"ONNX Runtime has no memory for an output of [{string.Join(", ", shape.ToArray())}].");
        return data;
    }

    public void ParallelFor(delegate* unmanaged<void*, nuint, void> body, int count, void* state) =>
        Ort.Check(((delegate* unmanaged<nint, delegate* unmanaged<void*, nuint, void>, nuint, nuint, void*, nint>)Ort.Api->KernelContext_ParallelFor)(handle, body, (nuint)count, (nuint)count, state));

    /// <summary>The stream that the provider runs this node on (for CUDA a CUstream); 0 where it has none, as the CPU's.</summary>
    public nint GpuStream
    {
        get
        {
            nint stream;
            Ort.Check(((delegate* unmanaged<nint, nint*, nint>)Ort.Api->KernelContext_GetGPUComputeStream)(handle, &stream));
            return stream;
        }
    }
}
