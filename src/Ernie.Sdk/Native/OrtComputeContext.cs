using Microsoft.ML.OnnxRuntime;

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
    public void* Output(int index, params ReadOnlySpan<long> shape)
    {
        nint value;
        fixed (long* p = shape)
            Ort.Check(((delegate* unmanaged<nint, nuint, long*, nuint, nint*, nint>)Ort.Api->KernelContext_GetOutput)(handle, (nuint)index, p, (nuint)shape.Length, &value));
        if (value == 0) return null;
        void* data;
        Ort.Check(((delegate* unmanaged<nint, void**, nint>)Ort.Api->GetTensorMutableData)(value, &data));
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

    /// <summary>Memory for this call, of the provider's arena. Disposing gives it back: what was launched before on the node's stream may still use it, for the arena hands it on in the order of the stream.</summary>
    /// <param name="memory">The device.</param>
    /// <param name="bytes">Size; positive.</param>
    public OrtScratch Scratch(OrtMemoryInfo memory, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        nint allocator;
        void* data;
        Ort.Check(((delegate* unmanaged<nint, nint, nint*, nint>)Ort.Api->KernelContext_GetAllocator)(handle, memory.DangerousGetHandle(), &allocator));
        var status = ((delegate* unmanaged<nint, nint, nuint, void**, nint>)Ort.Api->KernelContext_GetScratchBuffer)(handle, memory.DangerousGetHandle(), checked((nuint)bytes), &data);
        if (status != 0) ((delegate* unmanaged<nint, void>)Ort.Api->ReleaseAllocator)(allocator);
        Ort.Check(status);
        return new OrtScratch(allocator, data);
    }
}

/// <summary>Memory of one call of a kernel.</summary>
internal readonly unsafe ref struct OrtScratch(nint allocator, void* data) : IDisposable
{
    public byte* Data => (byte*)data;

    public void Dispose()
    {
        // The buffer is not ONNX Runtime's to free, whatever its name (onnxruntime_c_api.h, KernelContext_GetScratchBuffer).
        _ = Ort.Succeeded(((delegate* unmanaged<nint, void*, nint>)Ort.Api->AllocatorFree)(allocator, data));
        ((delegate* unmanaged<nint, void>)Ort.Api->ReleaseAllocator)(allocator);
    }
}
