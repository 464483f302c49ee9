using System.Collections.Concurrent;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A CUDA kernel file that a C++ compiler has made a library of the CPU's (<c>Kernels/Cuda/emulation.h</c>). Libraries stay in the temporary folder for the next run.</summary>
internal sealed unsafe partial class CudaEmulation
{
    private static readonly string s_kernels = Path.Combine(SharedData.RepositoryRoot, "src", "Ernie.Sdk", "Kernels", "Cuda");
    private static readonly string s_probes = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.GpuTests", "Probes");
    private static readonly string s_header = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Kernels", "Cuda", "emulation.h");
    private static readonly string s_races = Path.Combine(Path.GetDirectoryName(s_header)!, "races.h");
    private static readonly string[] s_compilers = ["clang++-19", "clang++", "g++"];
    private static readonly ConcurrentDictionary<(string Name, bool Watched), Lazy<CudaEmulation>> s_files = new();
    private readonly nint _library;
    private readonly Lock _lock = new();

    private CudaEmulation(string name, bool watched) => _library = NativeLibrary.Load(File = Build(name, watched));

    /// <summary>The library.</summary>
    public string File { get; }

    /// <summary>Runs threads in falling order, in launches of the calling thread.</summary>
    [field: ThreadStatic]
    public static bool Descending { get; set; }

    /// <summary>Watches every access of launches of the calling thread (<c>Kernels/Cuda/races.h</c>): what two threads touch without a barrier between, and what lies at no multiple of its size, is an error. Some ten times as slow; clang only.</summary>
    [field: ThreadStatic]
    public static bool Watched { get; set; }

    /// <summary>The file of this name; skips the test where the machine cannot compile it.</summary>
    public static CudaEmulation Of(string name)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && Compiler is not null, "No C++ compiler (g++ or clang++) that could make the CUDA kernels run on the CPU.");
        Assert.SkipUnless(!Watched || Compiler.StartsWith("clang", StringComparison.Ordinal), "Only clang leaves the functions that watch accesses to the tests.");
        return s_files.GetOrAdd((name, Watched), static file => new Lazy<CudaEmulation>(() => new CudaEmulation(file.Name, file.Watched))).Value;
    }

    public static string? Compiler { get; } = s_compilers.FirstOrDefault(IsThere);

    /// <summary>Launches a kernel and waits. A parameter is a pointer, an int or a float.</summary>
    public void Launch(string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
    {
        var launch = (delegate* unmanaged<int*, int, int, int, void**, int, int>)NativeLibrary.GetExport(_library, $"launch_{kernel}");
        var values = stackalloc ulong[parameters.Length];
        var addresses = stackalloc void*[parameters.Length];
        for (var i = 0; i < parameters.Length; i++)
        {
            values[i] = parameters[i].Bits;
            addresses[i] = values + i;
        }
        var blocks = stackalloc int[] { grid.X, grid.Y, grid.Z };
        int status;
        lock (_lock) status = launch(blocks, threads, sharedBytes, Descending ? 1 : 0, addresses, parameters.Length);
        Assert.True(status == 0, $"{kernel}: " + status switch
        {
            1 => "threads wait for each other in vain.",
            2 => $"writes behind its {sharedBytes} bytes of shared memory.",
            5 => Marshal.PtrToStringUTF8((nint)((delegate* unmanaged<byte*>)NativeLibrary.GetExport(_library, "ernie_problem"))()),
            4 => $"does not have {parameters.Length} parameters.",
            _ => $"{threads} threads and {sharedBytes} bytes of shared memory are no geometry.",
        });
    }

    private static string Build(string name, bool watched)
    {
        var source = Path.Combine(name == "probe" ? s_probes : s_kernels, name + ".cu");
        var names = KernelNames().Matches(System.IO.File.ReadAllText(source)).Select(static match => match.Groups[1].Value);
        var text = $"#include \"{s_header}\"\n#include \"{Path.Combine(s_kernels, "device.cuh")}\"\n#include \"{source}\"\n" + string.Concat(names.Select(static kernel => $"EXPORT({kernel})\n"));
        // No -march=native: the libraries outlive a move to another machine, and FMA is all that they need.
        string[] options = ["-std=c++17", .. watched ? ["-O1", "-fsanitize=thread", "-fno-sanitize-link-runtime", "-DERNIE_RACES"] : new[] { "-O2" }, "-fPIC", "-shared", "-ffp-contract=off", "-w", .. RuntimeInformation.ProcessArchitecture == Architecture.X64 ? ["-mfma", "-msse4.1"] : Array.Empty<string>()];
        var key = Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(Compiler + string.Join(' ', options) + text + System.IO.File.ReadAllText(s_header) + System.IO.File.ReadAllText(s_races) + System.IO.File.ReadAllText(Path.Combine(s_kernels, "device.cuh")) + System.IO.File.ReadAllText(source))))[..16];
        var library = Path.Combine(Path.GetTempPath(), "ernie-cuda-emulation", $"{name}.{key}.so");
        if (System.IO.File.Exists(library)) return library;
        Directory.CreateDirectory(Path.GetDirectoryName(library)!);
        var unit = Path.Combine(Path.GetTempPath(), "ernie-cuda-emulation", $"{name}.{key}.{Environment.ProcessId}.cpp");
        System.IO.File.WriteAllText(unit, text);
        var result = ChildProcess.RunAsync(Compiler!, [.. options, unit, "-o", unit + ".so"]).GetAwaiter().GetResult();
        Assert.True(result.ExitCode == 0, result.Error);
        System.IO.File.Move(unit + ".so", library, overwrite: true);
        System.IO.File.Delete(unit);
        return library;
    }

    private static bool IsThere(string program)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, "--version") { RedirectStandardOutput = true, RedirectStandardError = true });
            process!.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }

    [GeneratedRegex(@"^KERNEL\(\d+\)\s+(\w+)\(", RegexOptions.Multiline)]
    private static partial Regex KernelNames();
}
