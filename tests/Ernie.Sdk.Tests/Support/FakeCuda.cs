using System.Runtime.InteropServices;
using System.Text;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The driver of <c>Native/FakeCudaDriver.c</c>. Its state is the process': tests that use it are of the collection of this name.</summary>
internal sealed unsafe class FakeCuda
{
    public const string Collection = "Fake CUDA driver";
    public const int Memory = 0, Modules = 1, Streams = 2, Events = 3, Pinned = 4, Providers = 5, Contexts = 6;

    private static readonly string[] s_files = ["attention", "experts", "linear", "norm", "sampling", "probe"];
    private readonly nint _library;

    public FakeCuda()
    {
        var folder = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Native");
        File = CompiledLibrary.Of("libfakecuda.so.1", System.IO.File.ReadAllText(Path.Combine(folder, "FakeCudaDriver.c")), "-I", folder);
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

    /// <summary>GPUs, and what they all are; before the driver is started.</summary>
    /// <param name="count">How many there are: up to eight.</param>
    /// <param name="major">Of the compute capability.</param>
    /// <param name="minor">Of the compute capability.</param>
    /// <param name="bytes">Memory of each; see also <see cref="Resize"/>.</param>
    /// <param name="version">The newest CUDA that the driver runs, as in 13010 for 13.1.</param>
    public void Describe(int count = 1, int major = 9, int minor = 0, long bytes = 1 << 30, int version = 13000) =>
        ((delegate* unmanaged<int, int, int, nuint, int, void>)Export("fake_device"))(count, major, minor, (nuint)bytes, version);

    /// <summary>Gives one GPU another size of memory; what is allocated stays.</summary>
    /// <param name="ordinal">Which one.</param>
    /// <param name="bytes">All of its memory.</param>
    public void Resize(int ordinal, long bytes) => ((delegate* unmanaged<int, nuint, void>)Export("fake_device_bytes"))(ordinal, (nuint)bytes);

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

    /// <summary>Lets the driver launch the kernels of the product, which a C++ compiler makes of their text, and forbids the CPU and other GPUs to touch a GPU's memory: a test that does ends the process.</summary>
    public void Emulate() => Emulate([.. s_files.Select(static file => CudaEmulation.Of(file).File)]);

    /// <summary>Lets the driver launch the kernels of some libraries, and forbids the CPU and other GPUs to touch a GPU's memory.</summary>
    /// <param name="libraries">Each has a function <c>launch_NAME</c> for a kernel's entry NAME.</param>
    public void Emulate(IEnumerable<string> libraries)
    {
        foreach (var library in libraries)
        {
            fixed (byte* path = Encoding.UTF8.GetBytes(library + '\0'))
                Assert.Equal(1, ((delegate* unmanaged<byte*, int>)Export("fake_emulate"))(path));
        }
        ((delegate* unmanaged<int, void>)Export("fake_curtain"))(1);
    }

    /// <summary>Everything that loading checks, with this driver and libraries that are only there to be found.</summary>
    /// <param name="folder">For the provider's library.</param>
    public CudaInstallation Installation(TemporaryFolder folder)
    {
        var provider = Directory.CreateDirectory(folder.File("provider")).FullName;
        System.IO.File.WriteAllText(Path.Combine(provider, "libonnxruntime_providers_cuda.so"), "");
        return new CudaInstallation(File, [.. CudaInstallation.Default.Libraries.Select(static library => (library.Name, CompiledLibrary.Empty(library.File)))], provider);
    }

    /// <summary>Kernels that were launched.</summary>
    public int Launches => ((delegate* unmanaged<int>)Export("fake_launches"))();

    /// <summary>Waits for a stream: the library's, and its provider's at the end of runs.</summary>
    public (int Own, int Provider) Waits => (((delegate* unmanaged<int, int>)Export("fake_waits"))(0), ((delegate* unmanaged<int, int>)Export("fake_waits"))(1));

    /// <summary>Those of them that may begin before the one before has ended.</summary>
    public int Overlapping => ((delegate* unmanaged<int>)Export("fake_overlapping"))();

    /// <summary>Captures what is asked of a stream of the current context until the result is called, in the mode of ONNX Runtime's provider. Whoever calls it does on the same thread.</summary>
    public Action Capture(CudaStream stream)
    {
        var graph = ((delegate* unmanaged<nint, int>)Export("fake_capture_begin"))(stream.Handle);
        Assert.True(graph >= 0);
        return () => ((delegate* unmanaged<int, void>)Export("fake_capture_end"))(graph);
    }

    /// <summary>Graphs that were captured, and how often they were replayed.</summary>
    public (int Captured, int Replayed) Graphs => (((delegate* unmanaged<int>)Export("fake_graphs"))(), ((delegate* unmanaged<int>)Export("fake_replays"))());

    /// <summary>Bytes of device memory of all GPUs, the provider's among them, that are not freed.</summary>
    public long UsedBytes => (long)((delegate* unmanaged<nuint>)Export("fake_used"))();

    /// <summary>Most bytes of device memory that were taken on all GPUs at once since the test began, or <see cref="ForgetPeak"/>.</summary>
    public long PeakBytes => (long)((delegate* unmanaged<nuint>)Export("fake_peak"))();

    /// <summary><see cref="UsedBytes"/> of one GPU.</summary>
    public long UsedBytesOf(int ordinal) => (long)((delegate* unmanaged<int, nuint>)Export("fake_used_of"))(ordinal);

    /// <summary><see cref="PeakBytes"/> of one GPU.</summary>
    public long PeakBytesOf(int ordinal) => (long)((delegate* unmanaged<int, nuint>)Export("fake_peak_of"))(ordinal);

    public void ForgetPeak() => ((delegate* unmanaged<void>)Export("fake_forget_peak"))();

    /// <summary>What of a kind was made on any GPU and is not destroyed.</summary>
    public int Live(int kind) => ((delegate* unmanaged<int, int>)Export("fake_live"))(kind);

    /// <summary>Whatever was made is destroyed, and the contexts released.</summary>
    public void AssertNothingIsLeft() => Assert.Equal([0, 0, 0, 0, 0, 0, 0], Enumerable.Range(0, 7).Select(Live));

    private void* Export(string name) => (void*)NativeLibrary.GetExport(_library, name);
}
