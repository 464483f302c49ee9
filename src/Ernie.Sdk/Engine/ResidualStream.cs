using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>
/// What one device's layers leave for those of a GPU, the residual stream of a step: it lands in pinned memory of this process and goes from there to the GPU, which works between any two devices. Used by the engine's thread only.
/// </summary>
/// <param name="context">Of the GPU that it comes to.</param>
/// <param name="hidden">Size of a token.</param>
internal sealed unsafe class ResidualStream(CudaContext context, int hidden) : IDisposable
{
    private CudaPinnedBuffer? _host; // [tokens, hidden] float
    private CudaMemory? _device;     // likewise
    private int _tokens;

    /// <summary>Device memory for a number of tokens, of a GPU that it comes to or goes from.</summary>
    public static long DeviceBytes(int tokens, int hidden) => (long)tokens * hidden * sizeof(float);

    /// <summary>[tokens, hidden] in this process' memory: where the device before leaves it.</summary>
    public nint Landing => (nint)_host!.Address;

    /// <summary>Makes room for a step of so many tokens. No other step is under way.</summary>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>.</exception>
    public void Reserve(int tokens)
    {
        if (tokens <= _tokens) return;
        Dispose();
        _host = new CudaPinnedBuffer(context, DeviceBytes(tokens, hidden));
        _device = context.Allocate(DeviceBytes(tokens, hidden));
        _tokens = tokens;
    }

    /// <summary>[tokens, hidden] on the GPU, when the stream has come so far.</summary>
    public OrtValue Send(int tokens, OrtMemoryInfo memory, CudaStream stream)
    {
        if (tokens > 0) _device!.CopyFrom(_host!.Address, DeviceBytes(tokens, hidden), stream: stream);
        return OrtValue.CreateTensorValueWithData(memory, TensorElementType.Float, [tokens, hidden], _device!.Address, DeviceBytes(tokens, hidden));
    }

    public void Dispose()
    {
        _device?.Dispose();
        _host?.Dispose();
        (_device, _host, _tokens) = (null, null, 0);
    }
}
