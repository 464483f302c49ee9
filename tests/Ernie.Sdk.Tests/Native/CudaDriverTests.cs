using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Native;

/// <summary>The driver API against a driver without a GPU, which is as strict about contexts, addresses and handles.</summary>
[Collection(FakeCuda.Collection)]
public sealed unsafe class CudaDriverTests
{
    private static readonly byte[] s_ptx = ".version 8.0\n.target sm_80\n"u8.ToArray();

    private readonly FakeCuda _fake = new();

    [Fact]
    public void MissingLibrary_IsTold() => Assert.Throws<DllNotFoundException>(static () => CudaDriver.Load("libnocuda.so.1"));

    [Fact]
    public void LibraryWithoutTheEntryPoints_IsTooOld()
    {
        var e = Assert.Throws<EntryPointNotFoundException>(static () => CudaDriver.Load(CompiledLibrary.Of("liboldcuda.so.1", "int cuInit(unsigned f) { return 0; }")));
        Assert.Contains("cuDriverGetVersion", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Device_IsDescribed()
    {
        _fake.Describe(count: 2, major: 8, minor: 6, bytes: 24L << 30, version: 13010);
        _fake.Driver.Start();
        var devices = _fake.Driver.Devices();
        Assert.Equal(["Fake GPU 0", "Fake GPU 1"], devices.Select(static d => d.Name));
        Assert.Equal((1, new Version(8, 6), 24L << 30, 132, 232448), (devices[1].Ordinal, devices[1].ComputeCapability, devices[1].TotalBytes, devices[1].MultiprocessorCount, devices[1].SharedBytesPerBlock));
        Assert.Equal(new Version(13, 1), _fake.Driver.CudaVersion());
    }

    [Fact]
    public void NoDevice_HasItsName()
    {
        _fake.Describe(count: 0);
        var e = Assert.Throws<CudaException>(_fake.Driver.Start);
        Assert.Equal((CudaResult.NoDevice, "cuInit", "CUDA_ERROR_NO_DEVICE"), (e.Result, e.Call, e.ErrorName));
        Assert.Equal("cuInit failed: CUDA_ERROR_NO_DEVICE (100)", e.Message);
    }

    [Fact]
    public void ErrorThatTheDriverDoesNotKnow_KeepsItsNumber()
    {
        _fake.Fail("cuDeviceGetCount", (CudaResult)987);
        _fake.Driver.Start();
        Assert.Contains("(987)", Assert.Throws<CudaException>(() => _fake.Driver.Devices()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Kernel_ReadsAndWritesDeviceMemory()
    {
        using (var context = _fake.Device().Retain())
        using (var module = context.Load(s_ptx))
        using (var stream = context.CreateStream())
        using (var x = context.Allocate(300 * sizeof(float)))
        using (var y = context.Allocate(300 * sizeof(float)))
        {
            var values = Enumerable.Range(0, 300).Select(static i => i - 7.5f).ToArray();
            var results = new float[300];
            var scale = module.Function("scale");
            scale.AllowSharedBytes(100 << 10);
            nint from = x.Address, to = y.Address;
            var (factor, count) = (-2f, 300);
            fixed (float* v = values, r = results)
            {
                x.CopyFrom(v, x.Bytes, stream: stream);
                y.Clear(stream);
                context.Enter();
                scale.Launch(new CudaSize(3), new CudaSize(128), 0, stream.Handle, (nint)(&from), (nint)(&to), (nint)(&factor), (nint)(&count));
                y.CopyTo(r, y.Bytes, stream: stream);
                stream.Synchronize();
            }
            Assert.Equal(values.Select(static v => -2 * v), results);
            Assert.Equal((1L << 30) - 2400, context.FreeBytes());
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void Copies_StayInside()
    {
        using var context = _fake.Device().Retain();
        using var a = context.Allocate(16);
        using var b = context.Allocate(16);
        var bytes = stackalloc byte[16];
        for (var i = 0; i < 16; i++) bytes[i] = (byte)i;
        a.CopyFrom(bytes, 16);
        b.Clear();
        b.CopyFrom(a, 4, sourceOffset: 8, offset: 2);
        b.CopyTo(bytes, 16);
        Assert.Equal([0, 0, 8, 9, 10, 11, 0, 0], new ReadOnlySpan<byte>(bytes, 8).ToArray());
        Assert.Throws<ArgumentOutOfRangeException>(() => a.CopyFrom(b, 9, offset: 8));
        Assert.Throws<ArgumentOutOfRangeException>(() => a.CopyFrom(b, 9, sourceOffset: 8));
        Assert.Throws<ArgumentOutOfRangeException>(() => a.CopyFrom(b, 8, offset: -1));
    }

    [Fact]
    public void PtxThatDoesNotCompile_IsToldInTheCompilersWords()
    {
        using (var context = _fake.Device().Retain())
        {
            var e = Assert.Throws<CudaException>(() => context.Load("syntax error"u8));
            Assert.Equal(CudaResult.InvalidPtx, e.Result);
            Assert.EndsWith("line 3; fatal   : Parsing error near 'error'", e.Message, StringComparison.Ordinal);
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void KernelThatIsNotThere_AndLaunchThatFails_AreNamed()
    {
        using var context = _fake.Device().Retain();
        using var module = context.Load(s_ptx);
        Assert.Contains("'nothing'", Assert.Throws<CudaException>(() => module.Function("nothing")).Message, StringComparison.Ordinal);
        _fake.Fail("cuLaunchKernel", (CudaResult)700);
        context.Enter();
        var e = Assert.Throws<CudaException>(() => module.Function("scale").Launch(new CudaSize(1), new CudaSize(1), 0, 0));
        Assert.Equal("cuLaunchKernel of 'scale' failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)", e.Message);
    }

    [Fact]
    public void OutOfMemory_IsThatAndReleasesNothingElse()
    {
        using (var context = _fake.Device().Retain())
        using (var first = context.Allocate(1 << 29))
        {
            var e = Assert.Throws<CudaException>(() => context.Allocate((1 << 29) + 1));
            Assert.True(e.IsOutOfMemory);
            Assert.Contains("out of memory", e.Message, StringComparison.Ordinal);
            using var second = context.Allocate(1 << 29);
            Assert.Equal(2, _fake.Live(FakeCuda.Memory));
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void Events_PassInTheirTime()
    {
        using (var context = _fake.Device().Retain())
        using (var stream = context.CreateStream())
        using (var start = context.CreateEvent(timing: true))
        using (var end = context.CreateEvent(timing: true))
        using (var plain = context.CreateEvent())
        {
            start.Record(stream.Handle);
            stream.Wait(start);
            end.Record(stream.Handle);
            _fake.Pending(2);
            Assert.Equal([false, false, true], new[] { end.HasPassed(), end.HasPassed(), end.HasPassed() });
            end.Synchronize();
            Assert.InRange(end.MillisecondsSince(start), 0, 60_000);
            Assert.InRange(start.MillisecondsSince(end), -60_000, 0);
            Assert.Throws<CudaException>(() => end.MillisecondsSince(plain));
            _fake.Fail("cuEventQuery", (CudaResult)700);
            Assert.Throws<CudaException>(() => end.HasPassed());
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void Context_LivesAsLongAsWhatIsInIt()
    {
        var context = _fake.Device().Retain();
        var memory = context.Allocate(64);
        context.Dispose();
        context.Dispose();
        Assert.Equal(1, _fake.Live(FakeCuda.Contexts));
        memory.Clear();
        memory.Dispose();
        memory.Dispose();
        _fake.AssertNothingIsLeft();
        Assert.Throws<ObjectDisposedException>(() => context.Allocate(64));
    }

    [Fact]
    public void Resources_AreDestroyedOnAnyThread_AndAfterAnError()
    {
        var context = _fake.Device().Retain();
        var resources = new List<CudaResource> { context.Allocate(64), context.Load(s_ptx), context.CreateStream(), context.CreateEvent() };
        var page = stackalloc byte[64];
        resources.Add(context.Pin(page, 64, readOnly: true));
        var thread = new Thread(() =>
        {
            foreach (var resource in resources) resource.Dispose();
            context.Dispose();
        });
        thread.Start();
        thread.Join();
        _fake.AssertNothingIsLeft();

        // A context that is broken takes all with it; disposing says nothing.
        context = _fake.Device().Retain();
        var memory = context.Allocate(64);
        _fake.Fail("cuCtxSetCurrent", (CudaResult)700);
        memory.Dispose();
        context.Dispose();
        Assert.Equal(0, _fake.Live(FakeCuda.Contexts));
    }

    [Theory]
    [InlineData("cuDevicePrimaryCtxRetain")]
    [InlineData("cuCtxSetCurrent")]
    [InlineData("cuMemAlloc_v2")]
    [InlineData("cuModuleLoadDataEx")]
    [InlineData("cuModuleGetFunction")]
    [InlineData("cuStreamCreate")]
    [InlineData("cuEventCreate")]
    [InlineData("cuMemHostRegister_v2")]
    [InlineData("cuMemcpyHtoDAsync_v2")]
    [InlineData("cuMemcpyDtoHAsync_v2")]
    [InlineData("cuStreamSynchronize")]
    [InlineData("cuMemGetInfo_v2")]
    public void AnyCallThatFails_LeavesNothingBehind(string call)
    {
        // The first calls, then each later one of the kind, until the work gets through.
        for (var nth = 1; ; nth++)
        {
            _fake.Fail(call, CudaResult.OutOfMemory, nth);
            try
            {
                Work(_fake.Device());
                Assert.True(nth > 1, $"{call} was never called.");
                break;
            }
            catch (CudaException e)
            {
                Assert.True(e.IsOutOfMemory);
            }
            // A resource whose context could not be entered cannot be destroyed; the driver destroys it with the context.
            if (call != "cuCtxSetCurrent") _fake.AssertNothingIsLeft();
            else Assert.Equal(0, _fake.Live(FakeCuda.Contexts));
        }
    }

    [Fact]
    public void ThousandRounds_LeaveNothing()
    {
        var device = _fake.Device();
        for (var i = 0; i < 1000; i++) Work(device);
        _fake.AssertNothingIsLeft();
    }

    private static void Work(CudaDevice device)
    {
        using var context = device.Retain();
        using var module = context.Load(s_ptx);
        _ = module.Function("scale");
        using var stream = context.CreateStream();
        using var passed = context.CreateEvent();
        using var x = context.Allocate(64);
        using var y = context.Allocate(64);
        var bytes = stackalloc byte[64];
        using var pinned = context.Pin(bytes, 64, readOnly: false);
        x.CopyFrom(bytes, 64, stream: stream);
        y.CopyFrom(x, 64, stream: stream);
        y.CopyTo(bytes, 64, stream: stream);
        passed.Record(stream.Handle);
        stream.Synchronize();
        _ = context.FreeBytes();
    }
}
