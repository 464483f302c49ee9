using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>
/// The embedding and the first layers of a model whose others a GPU computes: the CPU computes them whole, with a cache of its own, and the residual stream goes to the GPU in one copy a step. Used by the engine's thread only.
/// </summary>
/// <param name="context">Of the GPU.</param>
/// <param name="device">The CPU.</param>
/// <param name="count">Layers.</param>
/// <param name="hidden">Size of a token.</param>
internal sealed unsafe class FirstLayers(CudaContext context, CpuDevice device, int count, int hidden) : IDisposable
{
    private CudaPinnedBuffer? _host; // [tokens, hidden] float
    private CudaMemory? _device;     // likewise
    private int _tokens;

    public CpuDevice Device => device;
    public int Count => count;

    /// <summary>Device memory for a number of tokens.</summary>
    public static long DeviceBytes(int tokens, int hidden) => (long)tokens * hidden * sizeof(float);

    /// <summary>Makes room for a step of so many tokens. No other step is under way.</summary>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>.</exception>
    public void Reserve(int tokens)
    {
        if (tokens <= _tokens) return;
        Free();
        _host = new CudaPinnedBuffer(context, DeviceBytes(tokens, hidden));
        _device = context.Allocate(DeviceBytes(tokens, hidden));
        _tokens = tokens;
    }

    /// <summary>[tokens, hidden] where the CPU leaves the residual stream.</summary>
    public OrtValue Output(int tokens) => OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, hidden], (nint)_host!.Address, DeviceBytes(tokens, hidden));

    /// <summary>The same in device memory, when the stream has come so far.</summary>
    public OrtValue Send(int tokens, OrtMemoryInfo memory, CudaStream stream)
    {
        if (tokens > 0) _device!.CopyFrom(_host!.Address, DeviceBytes(tokens, hidden), stream: stream);
        return OrtValue.CreateTensorValueWithData(memory, TensorElementType.Float, [tokens, hidden], _device!.Address, DeviceBytes(tokens, hidden));
    }

    public void Dispose()
    {
        Free();
        device.Dispose();
    }

    private void Free()
    {
        _device?.Dispose();
        _host?.Dispose();
        (_device, _host, _tokens) = (null, null, 0);
    }
}
