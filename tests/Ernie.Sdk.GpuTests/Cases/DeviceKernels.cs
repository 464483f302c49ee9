using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>The operators on a GPU: arguments go there, results come back, and what lies behind each of them must be as it was.</summary>
internal sealed unsafe class DeviceKernels : LaunchedKernels, IDisposable
{
    private const int GuardBytes = 256;
    private const byte Guard = 0xA5;
    private readonly CudaContext _context;
    private readonly CudaModules _modules;
    private readonly CudaStream _stream;
    private readonly CudaWorkspace _arguments, _scratch;
    private readonly StreamLauncher _launcher;

    public DeviceKernels(CudaDevice device)
    {
        _context = device.Retain();
        _modules = new CudaModules(_context);
        _stream = _context.CreateStream();
        (_arguments, _scratch) = (new CudaWorkspace(_context), new CudaWorkspace(_context));
        _launcher = new StreamLauncher(_modules);
    }

    public override bool IsSupported => true;

    public void Dispose()
    {
        _scratch.Dispose();
        _arguments.Dispose();
        _stream.Dispose();
        _modules.Dispose();
        _context.Dispose();
    }

    protected override Call Begin()
    {
        _arguments.Reset();
        _launcher.Begin(_stream.Handle, _scratch);
        return new DeviceCall(this);
    }

    private sealed class DeviceCall(DeviceKernels kernels) : Call
    {
        private readonly List<(nint Host, nint Device, nint Bytes)> _results = [];
        private readonly List<(nint Device, nint Bytes)> _guards = [];

        private CudaDriver Driver => kernels._context.Driver;
        private nint Stream => kernels._stream.Handle;

        public override ICudaLauncher Launcher => kernels._launcher;

        public override T* In<T>(T* host, nint count) => host == null ? null : (T*)Rent(host, count * sizeof(T));

        public override T* Out<T>(T* host, nint count)
        {
            if (host == null) return null;
            var device = Rent(null, count * sizeof(T));
            _results.Add(((nint)host, (nint)device, count * sizeof(T)));
            return (T*)device;
        }

        public override T* InOut<T>(T* host, nint count)
        {
            var device = In(host, count);
            if (host != null) _results.Add(((nint)host, (nint)device, count * sizeof(T)));
            return device;
        }

        public override void Finish()
        {
            foreach (var (host, device, bytes) in _results) Copy((void*)host, device, bytes);
            kernels._stream.Synchronize();
            var seen = new byte[GuardBytes];
            foreach (var (device, bytes) in _guards)
            {
                fixed (byte* to = seen) Copy(to, device + bytes, GuardBytes);
                kernels._stream.Synchronize();
                if (seen.AsSpan().ContainsAnyExcept(Guard)) throw new InvalidOperationException($"A kernel wrote behind {bytes:N0} bytes that it was given.");
            }
        }

        public override T[] Read<T>(T* device, nint count)
        {
            var values = new T[count];
            fixed (T* to = values) Copy(to, (nint)device, count * sizeof(T));
            kernels._stream.Synchronize();
            return values;
        }

        public override void Dispose()
        {
        }

        /// <summary>NaN, or what is at <paramref name="host"/>, with a guard behind it.</summary>
        private void* Rent(void* host, nint bytes)
        {
            var device = (nint)kernels._arguments.Rent(bytes + GuardBytes);
            kernels._context.Enter();
            if (host == null && bytes > 0) Driver.Check(Driver.MemsetD8Async(device, 0xFF, (nuint)bytes, Stream), "cuMemsetD8Async");
            else if (bytes > 0) Driver.Check(Driver.MemcpyHtoDAsync(device, host, (nuint)bytes, Stream), "cuMemcpyHtoDAsync");
            Driver.Check(Driver.MemsetD8Async(device + bytes, Guard, GuardBytes, Stream), "cuMemsetD8Async");
            _guards.Add((device, bytes));
            return (void*)device;
        }

        private void Copy(void* host, nint device, nint bytes)
        {
            if (bytes > 0) Driver.Check(Driver.MemcpyDtoHAsync(host, device, (nuint)bytes, Stream), "cuMemcpyDtoHAsync");
        }
    }
}
