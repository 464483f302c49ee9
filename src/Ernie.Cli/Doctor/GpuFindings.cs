using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Cli.Doctor;

/// <summary>What is there of CUDA. Nothing of it is needed.</summary>
internal static partial class GpuFindings
{
    /// <summary>Stands above the findings, so that nobody takes what is found for what is used.</summary>
    public const string Note = "This version computes on the CPU, whatever is found here.";

    public static IEnumerable<Finding> All()
    {
        yield return Driver();
        foreach (var (name, linux, windows) in new[] { ("CUDA runtime", "libcudart.so.13", "cudart64_13.dll"), ("cuBLAS", "libcublas.so.13", "cublas64_13.dll"), ("cuRAND", "libcurand.so.10", "curand64_10.dll") })
            yield return Library(name, OperatingSystem.IsWindows() ? windows : linux);
        yield return Package();
    }

    /// <summary>Whether the system's loader finds a library.</summary>
    internal static Finding Library(string name, string file)
    {
        if (!NativeLibrary.TryLoad(file, out var handle)) return new Finding(name, FindingState.Absent, $"{file} was not found", "It comes with the CUDA 13 toolkit; the loader must find it (on Linux ldconfig or LD_LIBRARY_PATH, on Windows PATH).");
        NativeLibrary.Free(handle);
        return new Finding(name, FindingState.Fine, $"{file} was found");
    }

    private static Finding Driver()
    {
        var file = OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1";
        if (!NativeLibrary.TryLoad(file, out var handle)) return new Finding("GPU driver", FindingState.Absent, $"{file} was not found", "It comes with NVIDIA's driver; containers get it from the host (docker run --gpus all).");
        // Not freed: a driver does not like to be unloaded.
        var text = $"{file} was found";
        if (DriverVersion() is { } version) text += $", driver {version}";
        if (CudaVersion(handle) is not { } cuda) return new Finding("GPU driver", FindingState.Poor, text, "The driver does not answer. Is there a GPU, and may this process use it?");
        text += $", CUDA {cuda.Major}.{cuda.Minor}";
        return cuda.Major >= 13 ? new Finding("GPU driver", FindingState.Fine, text) : new Finding("GPU driver", FindingState.Poor, text, "Microsoft.ML.OnnxRuntime.Gpu 1.31 is built for CUDA 13: install driver 580 or later.");
    }

    private static unsafe Version? CudaVersion(nint driver)
    {
        if (!NativeLibrary.TryGetExport(driver, "cuDriverGetVersion", out var address)) return null;
        var version = 0;
        return ((delegate* unmanaged<int*, int>)address)(&version) == 0 && version > 0 ? new Version(version / 1000, version % 1000 / 10) : null;
    }

    private static string? DriverVersion()
    {
        const string Kernel = "/proc/driver/nvidia/version";
        try
        {
            return File.Exists(Kernel) && Number().Match(File.ReadAllText(Kernel)) is { Success: true } match ? match.Value : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static Finding Package()
    {
        string[] providers;
        try
        {
            providers = OrtEnv.Instance().GetAvailableProviders();
        }
        catch (Exception e) when (e is OnnxRuntimeException or TypeInitializationException or DllNotFoundException)
        {
            return new Finding("ONNX Runtime package", FindingState.Absent, "none could be loaded", "See ONNX Runtime above.");
        }
        var file = OperatingSystem.IsWindows() ? "onnxruntime_providers_cuda.dll" : "libonnxruntime_providers_cuda.so";
        var beside = Path.GetDirectoryName(CpuFindings.LoadedFrom("onnxruntime"));
        var hasLibrary = beside is not null && File.Exists(Path.Combine(beside, file));
        return hasLibrary || providers.Contains("CUDAExecutionProvider")
            ? new Finding("ONNX Runtime package", FindingState.Fine, string.Create(CultureInfo.InvariantCulture, $"Microsoft.ML.OnnxRuntime.Gpu; {file} is {(hasLibrary ? "" : "not ")}beside it"))
            : new Finding("ONNX Runtime package", FindingState.Absent, $"Microsoft.ML.OnnxRuntime: no {file}", "Programs choose the package; Microsoft.ML.OnnxRuntime.Gpu has the CUDA provider.");
    }

    [GeneratedRegex(@"\b\d{3,}\.\d+(\.\d+)?\b")]
    private static partial Regex Number();
}
