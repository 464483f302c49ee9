using System.Runtime.InteropServices;
using System.Text;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The driver of <c>Native/FakeCudaDriver.c</c>. Its state is the process': tests that use it are of the collection of this name.</summary>
internal sealed unsafe class FakeCuda
{
    public const string Collection = "Fake CUDA driver";
    public const int Memory = 0, Modules = 1, Streams = 2, Events = 3, Pinned = 4, Contexts = 5;

    private readonly nint _library;

    public FakeCuda()
    {
        File = CompiledLibrary.Of("libfakecuda.so.1", System.IO.File.ReadAllText(Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Native", "FakeCudaDriver.c")));
        _library = NativeLibrary.Load(File);
        ((delegate* unmanaged<void>)Export("fake_reset"))();
        Driver = CudaDriver.Load(File);
    }

    public string File { get; }
    public CudaDriver Driver { get; }

    /// <summary>The first GPU of the started driver.</summary>
    public CudaDevice Device()
    {
        Driver.Start();
        return Driver.Devices()[0];
    }

    public void Describe(int count = 1, int major = 9, int minor = 0, long bytes = 1 << 30, int version = 13000) =>
        ((delegate* unmanaged<int, int, int, nuint, int, void>)Export("fake_device"))(count, major, minor, (nuint)bytes, version);

    /// <summary>Makes the <paramref name="nth"/> call from now on fail.</summary>
    public void Fail(string call, CudaResult result, int nth = 1)
    {
        fixed (byte* name = Encoding.UTF8.GetBytes(call + '\0')) ((delegate* unmanaged<byte*, int, CudaResult, void>)Export("fake_fail"))(name, nth, result);
    }

    /// <summary>How often events are asked before they have passed.</summary>
    public void Pending(int polls) => ((delegate* unmanaged<int, void>)Export("fake_pending"))(polls);

    /// <summary>Calls since the test began.</summary>
    public string[] Calls => Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)Export("fake_log"))())!.Split('\n', StringSplitOptions.RemoveEmptyEntries);

    /// <summary>Whether a range is device memory that was not freed.</summary>
    public bool IsDeviceMemory(void* address, long bytes) => ((delegate* unmanaged<void*, nuint, int>)Export("fake_inside"))(address, (nuint)bytes) != 0;

    public int Live(int kind) => ((delegate* unmanaged<int, int>)Export("fake_live"))(kind);

    /// <summary>Whatever was made is destroyed, and the context released.</summary>
    public void AssertNothingIsLeft() => Assert.Equal([0, 0, 0, 0, 0, 0], Enumerable.Range(0, 6).Select(Live));

    private void* Export(string name) => (void*)NativeLibrary.GetExport(_library, name);
}
