using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Native;

/// <summary>Contexts of two GPUs in one process, against a driver that takes nothing of one in the context of the other.</summary>
[Collection(FakeCuda.Collection)]
public sealed unsafe class CudaSeveralGpusTests : IDisposable
{
    private const CudaResult InvalidValue = (CudaResult)1, InvalidDevice = (CudaResult)101, InvalidContext = (CudaResult)201, InvalidHandle = (CudaResult)400;
    private const int Bytes = 64;
    private static readonly byte[] s_ptx = ".version 8.0\n.target sm_80\n.visible .entry reaches(.param .u64 a, .param .u64 b)\n.maxntid 32\n"u8.ToArray();

    private readonly FakeCuda _fake = new();
    private readonly CudaContext _first, _second;

    public CudaSeveralGpusTests()
    {
        _fake.Describe(count: 2);
        _fake.Driver.Start();
        var devices = _fake.Driver.Devices();
        (_first, _second) = (devices[0].Retain(), devices[1].Retain());
    }

    public void Dispose()
    {
        _first.Dispose();
        _second.Dispose();
    }

    [Fact]
    public void Memory_IsCountedAndLimited_OnEachGpu()
    {
        _fake.Resize(1, 1 << 20);
        Assert.Equal([1 << 30, 1 << 20], _fake.Driver.Devices().Select(static device => device.TotalBytes));
        var (used, other) = (_fake.UsedBytesOf(0), _fake.UsedBytesOf(1));
        _fake.ForgetPeak();
        using (var memory = _first.Allocate(3 << 20))
        {
            var e = Assert.Throws<CudaException>(() => _second.Allocate((1 << 20) + 1));
            Assert.True(e.IsOutOfMemory);
            using var most = _second.Allocate(1 << 20);
            Assert.Equal((used + (3 << 20), other + (1 << 20), used + other + (4 << 20)), (_fake.UsedBytesOf(0), _fake.UsedBytesOf(1), _fake.UsedBytes));
            Assert.Equal(((1L << 30) - (3 << 20), 0), (_first.FreeBytes(), _second.FreeBytes()));
        }
        using (_first.Allocate(Bytes)) Assert.Equal((used + Bytes, other), (_fake.UsedBytesOf(0), _fake.UsedBytesOf(1)));
        Assert.Equal((used + (3 << 20), other + (1 << 20), used + other + (4 << 20)), (_fake.PeakBytesOf(0), _fake.PeakBytesOf(1), _fake.PeakBytes));
    }

    [Fact]
    public void WhatIsAnotherGpus_IsRefused_AndStaysAlive()
    {
        var driver = _fake.Driver;
        using (var memory = _first.Allocate(Bytes))
        using (var stream = _first.CreateStream())
        using (var passed = _first.CreateEvent(timing: true))
        using (var own = _second.Allocate(Bytes))
        using (var ownStream = _second.CreateStream())
        using (var ownEvent = _second.CreateEvent(timing: true))
        {
            var page = stackalloc byte[Bytes];
            using var pinned = _first.Pin(page, Bytes, readOnly: false);
            var (module, ownModule) = (Load(_first), Load(_second));
            nint function, ownFunction, none;
            fixed (byte* name = "scale\0"u8)
            {
                Assert.Equal(InvalidHandle, driver.ModuleGetFunction(&none, module, name));
                Assert.Equal(CudaResult.Success, driver.ModuleGetFunction(&ownFunction, ownModule, name));
                _first.Enter();
                Assert.Equal(CudaResult.Success, driver.ModuleGetFunction(&function, module, name));
            }
            _second.Enter();
            Assert.Equal(InvalidValue, driver.MemFree(memory.Address));
            Assert.Equal(InvalidValue, driver.MemHostUnregister(page));
            Assert.Equal(InvalidHandle, driver.StreamDestroy(stream.Handle));
            Assert.Equal(InvalidHandle, driver.EventDestroy(passed.Handle));
            Assert.Equal(InvalidHandle, driver.ModuleUnload(module));

            Assert.Equal(InvalidValue, driver.MemcpyHtoDAsync(memory.Address, page, Bytes, 0));
            Assert.Equal(InvalidValue, driver.MemcpyDtoHAsync(page, memory.Address, Bytes, 0));
            Assert.Equal(InvalidValue, driver.MemcpyDtoDAsync(own.Address, memory.Address, Bytes, 0));
            Assert.Equal(InvalidValue, driver.MemcpyDtoDAsync(memory.Address, own.Address, Bytes, 0));
            Assert.Equal(InvalidValue, driver.MemsetD8Async(memory.Address, 0, Bytes, 0));
            Assert.Equal(InvalidHandle, driver.MemcpyHtoDAsync(own.Address, page, Bytes, stream.Handle));

            Assert.Equal(InvalidHandle, driver.StreamSynchronize(stream.Handle));
            Assert.Equal(InvalidHandle, driver.StreamWaitEvent(stream.Handle, ownEvent.Handle, 0));
            Assert.Equal(InvalidHandle, driver.EventRecord(passed.Handle, ownStream.Handle));
            Assert.Equal(InvalidHandle, driver.EventRecord(ownEvent.Handle, stream.Handle));
            Assert.Equal(InvalidHandle, driver.EventSynchronize(passed.Handle));
            Assert.Equal(InvalidHandle, driver.EventQuery(passed.Handle));
            float time;
            Assert.Equal(InvalidHandle, driver.EventElapsedTime(&time, passed.Handle, ownEvent.Handle));

            Assert.Equal(InvalidHandle, driver.FuncSetAttribute(function, 8, 1 << 10));
            Assert.Equal(InvalidHandle, Launch(function, ownStream.Handle, own.Address, own.Address));
            Assert.Equal(InvalidHandle, Launch(ownFunction, stream.Handle, own.Address, own.Address));
            Assert.Equal(InvalidValue, Launch(ownFunction, ownStream.Handle, memory.Address, own.Address));
            Assert.Equal(CudaResult.Success, Launch(ownFunction, ownStream.Handle, own.Address, own.Address));

            Assert.Equal(CudaResult.Success, driver.ModuleUnload(ownModule));
            _first.Enter();
            Assert.Equal(CudaResult.Success, driver.ModuleUnload(module));
        }
        Assert.Equal((0, 0, 0, 0, 0), (_fake.Live(FakeCuda.Memory), _fake.Live(FakeCuda.Streams), _fake.Live(FakeCuda.Events), _fake.Live(FakeCuda.Modules), _fake.Live(FakeCuda.Pinned)));
    }

    /// <summary>What else would bring the work of two GPUs into an order.</summary>
    [Fact]
    public void AStream_WaitsForAnotherGpusEvent_AndPinnedPagesAreAllGpus()
    {
        using var stream = _first.CreateStream();
        using var other = _second.CreateStream();
        using var passed = _first.CreateEvent();
        using var from = _first.Allocate(Bytes);
        using var to = _second.Allocate(Bytes);
        var page = stackalloc byte[Bytes];
        var read = stackalloc byte[Bytes];
        using var pinned = _first.Pin(page, Bytes, readOnly: false);
        from.Clear(stream);
        from.CopyTo(page, Bytes, stream: stream);
        passed.Record(stream.Handle);
        other.Wait(passed);
        to.CopyFrom(page, Bytes, stream: other);
        to.CopyTo(read, Bytes, stream: other);
        Assert.Equal(new byte[Bytes], new ReadOnlySpan<byte>(read, Bytes).ToArray());
    }

    [Fact]
    public void AContext_IsOneWhileItsOwnGpuIsRetained()
    {
        var driver = _fake.Driver;
        int device;
        nint handle, again;
        Assert.Equal(InvalidDevice, driver.DeviceGet(&device, 2));
        Assert.Equal(CudaResult.Success, driver.DeviceGet(&device, 1));
        Assert.Equal(CudaResult.Success, driver.DevicePrimaryCtxRetain(&handle, device));
        Assert.Equal(3, _fake.Live(FakeCuda.Contexts));
        Assert.Equal(CudaResult.Success, driver.DevicePrimaryCtxRelease(device));
        _second.Enter();
        _second.Dispose();
        Assert.Equal(InvalidContext, driver.CtxSynchronize());
        Assert.Equal(InvalidContext, driver.CtxSetCurrent(handle));
        Assert.Equal(InvalidContext, driver.DevicePrimaryCtxRelease(device));
        _first.Synchronize();
        Assert.Equal(1, _fake.Live(FakeCuda.Contexts));
        Assert.Equal(InvalidDevice, driver.DevicePrimaryCtxRetain(&again, device + 1));
    }

    /// <summary>A kernel that is told addresses hands them to the system, which says where it may not read; one that read them itself would end the process.</summary>
    [Fact]
    public void AKernel_ReachesItsOwnGpusMemoryOnly()
    {
        const string Source = """
            #include <unistd.h>
            int launch_reaches(const int *grid, int threads, int shared, int descending, void **parameters, int count)
            {
                int pipes[2];
                if (pipe(pipes)) return 1;
                **(int **)parameters[1] = write(pipes[1], *(void **)parameters[0], 4) == 4;
                close(pipes[0]);
                close(pipes[1]);
                return 0;
            }
            """;
        _fake.Emulate([CompiledLibrary.Of("libfakereach.so", Source)]);
        using var memory = _first.Allocate(Bytes);
        using var own = _second.Allocate(Bytes);
        using var module = _second.Load(s_ptx);
        var reaches = module.Function("reaches");
        Assert.Equal((0, 1), (Reaches(memory.Address), Reaches(own.Address)));

        int Reaches(nint address)
        {
            var (to, result) = (own.Address, -1);
            _second.Enter();
            reaches.Launch(new CudaSize(1), new CudaSize(32), 0, 0, (nint)(&address), (nint)(&to));
            own.CopyTo(&result, sizeof(int));
            return result;
        }
    }

    private CudaResult Launch(nint function, nint stream, nint from, nint to)
    {
        var (factor, count) = (1f, Bytes / sizeof(float));
        var arguments = stackalloc void*[] { &from, &to, &factor, &count };
        return _fake.Driver.LaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, arguments, null);
    }

    private nint Load(CudaContext context)
    {
        nint module;
        context.Enter();
        fixed (byte* text = (byte[])[.. s_ptx, 0]) Assert.Equal(CudaResult.Success, _fake.Driver.ModuleLoadDataEx(&module, text, 0, null, null));
        return module;
    }
}
