using System.Globalization;
using System.Runtime.InteropServices;
using Ernie.Cli.Commands;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using X86 = System.Runtime.Intrinsics.X86;
using Arm = System.Runtime.Intrinsics.Arm;

namespace Ernie.Cli.Doctor;

/// <summary>What a model needs in order to run on the CPU.</summary>
internal static class CpuFindings
{
    public static IEnumerable<Finding> All(string? cacheFolder)
    {
        yield return Runtime(Environment.Version);
        yield return System(RuntimeInformation.RuntimeIdentifier, IntPtr.Size == 8 && BitConverter.IsLittleEndian);
        yield return OnnxRuntime();
        yield return Kernels(Environment.GetEnvironmentVariable(KernelRegistry.EnvironmentVariable));
        yield return new Finding("instruction sets", FindingState.Fine, InstructionSets());
        yield return Cores();
        yield return Memory(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);
        yield return Cache(CacheCommand.Folder(cacheFolder));
    }

    internal static Finding Runtime(Version version) => version.Major >= 10
        ? new Finding(".NET", FindingState.Fine, RuntimeInformation.FrameworkDescription)
        : new Finding(".NET", FindingState.Broken, version.ToString(), "Install .NET 10: https://dotnet.microsoft.com/download/dotnet/10.0");

    /// <param name="rid">Such as <c>linux-x64</c>.</param>
    /// <param name="is64BitLittleEndian">Whether this process is of that kind.</param>
    internal static Finding System(string rid, bool is64BitLittleEndian)
    {
        var text = $"{RuntimeInformation.OSDescription}, {RuntimeInformation.ProcessArchitecture}, {rid}{(Libc() is { } libc ? $", {libc}" : "")}";
        return OrtRuntime.UnsupportedSystem(rid, is64BitLittleEndian) is { } reason
            ? new Finding("system", FindingState.Broken, text, reason)
            : new Finding("system", FindingState.Fine, text);
    }

    internal static Finding Kernels(string? wanted)
    {
        try
        {
            var chosen = KernelRegistry.Choose(wanted).Name;
            var supported = string.Join(", ", KernelRegistry.All.Where(static k => k.IsSupported).Select(static k => k.Name));
            var text = $"{chosen}{(string.IsNullOrWhiteSpace(wanted) ? "" : $", because {KernelRegistry.EnvironmentVariable} says so")} (supported here: {supported})";
            return chosen == "reference"
                ? new Finding("kernels", FindingState.Poor, text, $"These are for comparison and very slow. Unset {KernelRegistry.EnvironmentVariable}.")
                : new Finding("kernels", FindingState.Fine, text);
        }
        catch (InvalidOperationException e)
        {
            return new Finding("kernels", FindingState.Broken, e.Message, $"Unset {KernelRegistry.EnvironmentVariable}, or name a family that is supported here.");
        }
    }

    internal static Finding Memory(long available)
    {
        var text = $"{Size.Text(available)} for this process{(Limit("/sys/fs/cgroup/memory.max") is { } limit ? $", limited to {Size.Text(limit)} by its control group" : "")}";
        return available >= 2L << 30
            ? new Finding("memory", FindingState.Fine, text)
            : new Finding("memory", FindingState.Poor, text, "The 0.3B model in int4 wants about 1 GiB with its cache; 'ernie inspect CHECKPOINT' says what a model takes. Raise the limit for larger ones.");
    }

    /// <summary>Whether exports can be written, told by writing one byte.</summary>
    internal static Finding Cache(string folder)
    {
        const string Cure = "Name a folder that can be written: --cache FOLDER, in programs ErnieModelOptions.CacheDirectory.";
        try
        {
            Directory.CreateDirectory(folder);
            var probe = Path.Combine(folder, $".doctor-{Environment.ProcessId}");
            File.WriteAllBytes(probe, [1]);
            File.Delete(probe);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return new Finding("cache folder", FindingState.Broken, $"{folder} cannot be written: {e.Message}", Cure);
        }
        var exports = CachedExport.All(folder);
        var text = exports.Count == 0 ? folder : $"{folder}, {CacheCommand.Exports(exports.Count)} of {Size.Text(exports.Sum(static e => e.Bytes))} ('ernie cache' lists them)";
        var outdated = CacheCommand.Outdated(exports) is { } cost ? $"{cost} Remove with: {CacheCommand.Clear(folder)}" : null;
        long free;
        try
        {
            free = new DriveInfo(folder).AvailableFreeSpace;
        }
        catch (Exception e) when (e is IOException or ArgumentException or UnauthorizedAccessException)
        {
            return new Finding("cache folder", FindingState.Fine, text, outdated);
        }
        text += $", {Size.Text(free)} free";
        return free >= 1L << 30 ? new Finding("cache folder", FindingState.Fine, text, outdated) : new Finding("cache folder", FindingState.Poor, text, "An export of the 0.3B model takes about 0.3 GB, of 21B 12 GB. 'ernie cache clear' removes those that are there. " + Cure);
    }

    private static Finding OnnxRuntime()
    {
        try
        {
            OrtRuntime.Start(logger: null, allowTelemetry: false);
            return new Finding("ONNX Runtime", FindingState.Fine, $"{OrtRuntime.Version}, {NativeLibraries.LoadedFrom(NativeLibraries.OnnxRuntime) ?? "place unknown"}");
        }
        catch (PlatformNotSupportedException e)
        {
            return new Finding("ONNX Runtime", FindingState.Broken, e.Message, "Reference Microsoft.ML.OnnxRuntime in the application; on Windows install the Visual C++ runtime too.");
        }
    }

    private static Finding Cores()
    {
        var usable = Environment.ProcessorCount;
        var quota = OperatingSystem.IsLinux() && Read("/sys/fs/cgroup/cpu.max")?.Split(' ') is [not "max" and var time, var period]
            && double.TryParse(time, NumberStyles.Float, CultureInfo.InvariantCulture, out var t) && double.TryParse(period, NumberStyles.Float, CultureInfo.InvariantCulture, out var p)
            ? string.Create(CultureInfo.InvariantCulture, $", limited to {t / p:0.##} by its control group") : "";
        return new Finding("cores", FindingState.Fine, $"{usable}{quota}");
    }

    private static string InstructionSets()
    {
        (string Name, bool Has)[] sets =
        [
            ("AVX2", X86.Avx2.IsSupported), ("FMA", X86.Fma.IsSupported), ("AVX-VNNI", X86.AvxVnni.IsSupported), ("AVX-512F", X86.Avx512F.IsSupported), ("AVX-512BW", X86.Avx512BW.IsSupported), ("AVX-512VBMI", X86.Avx512Vbmi.IsSupported),
            ("NEON", Arm.AdvSimd.Arm64.IsSupported), ("DP", Arm.Dp.IsSupported),
        ];
        var present = sets.Where(static s => s.Has).Select(static s => s.Name).ToArray();
        return present.Length == 0 ? "none that the kernels use" : string.Join(", ", present);
    }

    private static string? Libc()
    {
        if (!OperatingSystem.IsLinux()) return null;
        if (NativeLibrary.TryLoad("libc.so.6", out var handle))
        {
            try
            {
                unsafe
                {
                    if (NativeLibrary.TryGetExport(handle, "gnu_get_libc_version", out var version)) return $"glibc {Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)version)())}";
                }
            }
            finally
            {
                NativeLibrary.Free(handle);
            }
        }
        return Directory.Exists("/lib") && Directory.EnumerateFiles("/lib", "ld-musl-*").Any() ? "musl" : "a C library that is not glibc";
    }

    private static long? Limit(string path) => OperatingSystem.IsLinux() && long.TryParse(Read(path), NumberStyles.None, CultureInfo.InvariantCulture, out var limit) ? limit : null;

    private static string? Read(string path)
    {
        try
        {
            return File.Exists(path) ? File.ReadAllText(path).Trim() : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
