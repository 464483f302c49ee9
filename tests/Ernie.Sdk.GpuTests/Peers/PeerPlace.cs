using System.Globalization;
using System.Runtime.InteropServices;
using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>Where ONNX Runtime's own operators run, on one stream: its CUDA provider; or its CPU where it has none, as beside an emulated GPU: the same graph with the same outputs.</summary>
internal sealed class PeerPlace : IDisposable
{
    private readonly CudaInstallation _installation;
    private readonly OrtMemoryInfo _memory;

    public PeerPlace(CudaInstallation installation, CudaContext context, bool isTiny)
    {
        (_installation, Context) = (installation, context);
        IsGpu = OrtEnv.Instance().GetAvailableProviders().Contains(CudaOperatorEnvironment.CudaProvider);
        Clock = new GpuClock(context, isTiny);
        _memory = IsGpu ? new OrtMemoryInfo("Cuda", OrtAllocatorType.DeviceAllocator, context.Device.Ordinal, OrtMemType.Default) : OrtMemoryInfo.DefaultInstance;
    }

    public CudaContext Context { get; }
    public bool IsGpu { get; }
    public GpuClock Clock { get; }

    /// <param name="graph">Its weights are written.</param>
    /// <param name="entries">Further settings of the session.</param>
    /// <exception cref="OnnxRuntimeException">The provider has no kernel for the graph.</exception>
    public InferenceSession Session(OrtGraph graph, params (string Key, string Value)[] entries) => graph.Session(Environment.ProcessorCount, options =>
    {
        options.LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL;
        foreach (var (key, value) in entries) options.AddSessionConfigEntry(key, value);
        if (!IsGpu) return;
        options.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1");
        _installation.Append(options, new Dictionary<string, string>
        {
            ["device_id"] = Context.Device.Ordinal.ToString(CultureInfo.InvariantCulture),
            ["has_user_compute_stream"] = "1",
            ["user_compute_stream"] = ((nuint)Clock.Stream.Handle).ToString(CultureInfo.InvariantCulture),
            ["arena_extend_strategy"] = "kSameAsRequested",
        });
    });

    /// <summary>A tensor of float16, where the operators run.</summary>
    public PeerTensor Tensor(int rows, int columns) => new(this, _memory, rows, columns);

    public void Dispose()
    {
        if (IsGpu) _memory.Dispose();
        Clock.Dispose();
    }
}

/// <summary>[rows, columns] of float16.</summary>
internal sealed unsafe class PeerTensor : IDisposable
{
    private readonly PeerPlace _place;
    private readonly CudaMemory? _device;
    private readonly NativeArray<Half>? _host;
    private readonly int _count;

    public PeerTensor(PeerPlace place, OrtMemoryInfo memory, int rows, int columns)
    {
        (_place, _count) = (place, checked(rows * columns));
        if (place.IsGpu) _device = place.Context.Allocate((long)_count * sizeof(Half));
        else _host = new NativeArray<Half>(_count);
        Value = OrtValue.CreateTensorValueWithData(memory, TensorElementType.Float16, [rows, columns], _device?.Address ?? (nint)_host!.Pointer, (long)_count * sizeof(Half));
    }

    public OrtValue Value { get; }

    public void Write(ReadOnlySpan<Half> values)
    {
        if (_host is not null)
        {
            values.CopyTo(_host.Span);
            return;
        }
        fixed (Half* from = values) _device!.CopyFrom(from, (long)values.Length * sizeof(Half), 0, _place.Clock.Stream);
        _place.Clock.Stream.Synchronize();
    }

    public Half[] Read()
    {
        if (_host is not null) return _host.Span.ToArray();
        var values = new Half[_count];
        fixed (Half* to = values) _device!.CopyTo(to, (long)_count * sizeof(Half), 0, _place.Clock.Stream);
        _place.Clock.Stream.Synchronize();
        return values;
    }

    public void Dispose()
    {
        Value.Dispose();
        _device?.Dispose();
        _host?.Dispose();
    }
}
