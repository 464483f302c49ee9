using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Native;

/// <summary>What is there of CUDA, and where it is looked for.</summary>
/// <param name="Driver">Name or path of the driver.</param>
/// <param name="Libraries">Names or paths of the libraries that ONNX Runtime's CUDA provider is linked with (seen in its binary, 1.31.0).</param>
/// <param name="ProviderFolder">Where the provider's library is expected; null: beside the ONNX Runtime that this process has loaded.</param>
internal sealed partial record CudaInstallation(string Driver, IReadOnlyList<(string Name, string File)> Libraries, string? ProviderFolder = null)
{
    internal const string Gpus = "GPU";
    private const string NoGpu = "none that this process may use", NoGpuCure = "See CUDA_VISIBLE_DEVICES; containers need docker run --gpus all.";

    /// <summary>The first architecture that the kernels are compiled for: bf16 arithmetic and asynchronous copies to shared memory.</summary>
    public static Version LeastComputeCapability { get; } = new(8, 0);

    /// <summary>The CUDA that ONNX Runtime's provider is built for.</summary>
    public static Version LeastCudaVersion { get; } = new(13, 0);

    public static CudaInstallation Default { get; } = new(CudaDriver.DefaultFile, OperatingSystem.IsWindows()
        ? [("CUDA runtime", "cudart64_13.dll"), ("cuBLAS", "cublas64_13.dll"), ("cuBLAS Lt", "cublasLt64_13.dll"), ("cuRAND", "curand64_10.dll")]
        : [("CUDA runtime", "libcudart.so.13"), ("cuBLAS", "libcublas.so.13"), ("cuBLAS Lt", "libcublasLt.so.13"), ("cuRAND", "libcurand.so.10")]);

    /// <summary>Adds ONNX Runtime's CUDA provider, with these settings, to a session to be.</summary>
    public Action<SessionOptions, Dictionary<string, string>> Append { get; init; } = AppendCuda;

    /// <summary>Which of the usable GPUs models are computed on, and in which order. One that is named twice is as good as two.</summary>
    public Func<IReadOnlyList<CudaDevice>, IReadOnlyList<CudaDevice>> Choose { get; init; } = static gpus => gpus;

    private static string ProviderFile => OperatingSystem.IsWindows() ? "onnxruntime_providers_cuda.dll" : "libonnxruntime_providers_cuda.so";

    /// <summary>Everything, in the order in which it is needed. ONNX Runtime should have been started.</summary>
    public IEnumerable<CudaPiece> Pieces()
    {
        yield return Provider();
        var driver = DriverPiece(out var started);
        yield return driver;
        foreach (var (name, file) in Libraries) yield return Library(name, file);
        yield return started is not null ? GpuPiece(started)
            : driver.State == CudaPieceState.Present ? new CudaPiece(Gpus, CudaPieceState.Missing, NoGpu, Cure: NoGpuCure)
            : new CudaPiece(Gpus, CudaPieceState.Missing, "there is no driver to ask", Cure: driver.Cure);
    }

    /// <summary>The GPUs that the kernels run on. Only where all pieces are present.</summary>
    public IReadOnlyList<CudaDevice> UsableGpus()
    {
        var driver = CudaDriver.Load(Driver);
        driver.Start();
        return Choose([.. driver.Devices().Where(IsFit)]);
    }

    /// <summary>The first of them.</summary>
    public CudaDevice Gpu() => UsableGpus()[0];

    /// <summary>Whether the system's loader finds a library.</summary>
    internal static CudaPiece Library(string name, string file)
    {
        if (!NativeLibrary.TryLoad(file, out var handle))
            return new CudaPiece(name, CudaPieceState.Missing, $"{Path.GetFileName(file)} was not found", Places(file), $"It comes with the CUDA 13 toolkit; the loader must find it ({(OperatingSystem.IsWindows() ? "PATH" : "ldconfig or LD_LIBRARY_PATH")}).");
        NativeLibrary.Free(handle);
        return new CudaPiece(name, CudaPieceState.Present, $"{Path.GetFileName(file)} was found");
    }

    private static void AppendCuda(SessionOptions options, Dictionary<string, string> settings)
    {
        using var provider = new OrtCUDAProviderOptions();
        provider.UpdateOptions(settings);
        options.AppendExecutionProvider_CUDA(provider);
    }

    private CudaPiece Provider()
    {
        const string Name = "ONNX Runtime package";
        const string Cure = "Reference Microsoft.ML.OnnxRuntime.Gpu instead of Microsoft.ML.OnnxRuntime in the application; never both.";
        string[] providers;
        try
        {
            providers = OrtEnv.Instance().GetAvailableProviders();
        }
        catch (Exception e) when (e is OnnxRuntimeException or TypeInitializationException or DllNotFoundException)
        {
            return new CudaPiece(Name, CudaPieceState.Missing, "no ONNX Runtime could be loaded", Cure: Cure);
        }
        var folder = ProviderFolder ?? (NativeLibraries.LoadedFrom(NativeLibraries.OnnxRuntime) is { } path ? Path.GetDirectoryName(path) : null);
        if (folder is null) return new CudaPiece(Name, CudaPieceState.Unfit, "the place of the native ONNX Runtime is unknown", Cure: Cure);
        if (File.Exists(Path.Combine(folder, ProviderFile))) return new CudaPiece(Name, CudaPieceState.Present, $"Microsoft.ML.OnnxRuntime.Gpu, with {ProviderFile}");
        return providers.Contains("CUDAExecutionProvider")
            ? new CudaPiece(Name, CudaPieceState.Unfit, $"Microsoft.ML.OnnxRuntime.Gpu without {ProviderFile}", folder, "Publish the application with all native files of the package.")
            : new CudaPiece(Name, CudaPieceState.Missing, $"Microsoft.ML.OnnxRuntime, which computes on the CPU: no {ProviderFile}", folder, Cure);
    }

    private CudaPiece DriverPiece(out CudaDriver? started)
    {
        const string Name = "GPU driver";
        const string Newer = "Install NVIDIA's driver 580 or later: Microsoft.ML.OnnxRuntime.Gpu 1.31 is built for CUDA 13.";
        started = null;
        var file = Path.GetFileName(Driver);
        CudaDriver driver;
        try
        {
            driver = CudaDriver.Load(Driver);
        }
        catch (DllNotFoundException)
        {
            return new CudaPiece(Name, CudaPieceState.Missing, $"{file} was not found", Places(Driver), "It comes with NVIDIA's driver; containers get it from the host (docker run --gpus all).");
        }
        catch (BadImageFormatException)
        {
            return new CudaPiece(Name, CudaPieceState.Unfit, $"{file} is built for another system", Places(Driver), "Install NVIDIA's driver for this system.");
        }
        catch (EntryPointNotFoundException e)
        {
            return new CudaPiece(Name, CudaPieceState.Unfit, e.Message.TrimEnd('.'), Cure: Newer);
        }
        var text = $"{file} was found{(DriverVersion() is { } version ? $", driver {version}" : "")}";
        try
        {
            var cuda = driver.CudaVersion();
            text += $", CUDA {cuda}";
            if (cuda < LeastCudaVersion) return new CudaPiece(Name, CudaPieceState.Unfit, text, Cure: Newer);
            driver.Start();
        }
        catch (CudaException e) when (e.Result == CudaResult.NoDevice)
        {
            // The driver is as it should be; the GPU is a piece of its own.
            return new CudaPiece(Name, CudaPieceState.Present, text);
        }
        catch (CudaException e)
        {
            return new CudaPiece(Name, CudaPieceState.Unfit, $"{text}; {e.Message}", Cure: "The driver does not answer: nvidia-smi should say why. After an update of the driver, restart the machine.");
        }
        started = driver;
        return new CudaPiece(Name, CudaPieceState.Present, text);
    }

    private static CudaPiece GpuPiece(CudaDriver driver)
    {
        try
        {
            var devices = driver.Devices();
            var text = string.Join("; ", devices.Select(Describe));
            if (devices.Count == 0) return new CudaPiece(Gpus, CudaPieceState.Missing, NoGpu, Cure: NoGpuCure);
            return devices.Any(IsFit)
                ? new CudaPiece(Gpus, CudaPieceState.Present, text)
                : new CudaPiece(Gpus, CudaPieceState.Unfit, $"{text}: too old", Cure: "The kernels need compute capability 8.0 (Ampere: A100, RTX 30) or later.");
        }
        catch (CudaException e)
        {
            return new CudaPiece(Gpus, CudaPieceState.Unfit, e.Message, Cure: "The driver does not answer: nvidia-smi should say why.");
        }
    }

    private static bool IsFit(CudaDevice device) => device.ComputeCapability >= LeastComputeCapability;

    internal static string Describe(CudaDevice device) =>
        string.Create(CultureInfo.InvariantCulture, $"{device.Name} (sm_{device.ComputeCapability.Major}{device.ComputeCapability.Minor}, {device.TotalBytes / (double)(1L << 30):F1} GiB)");

    private static string Places(string file)
    {
        if (Path.IsPathRooted(file)) return Path.GetDirectoryName(file)!;
        var variable = OperatingSystem.IsWindows() ? "PATH" : "LD_LIBRARY_PATH";
        return $"{(OperatingSystem.IsWindows() ? "the application's folder, the system's" : "the loader's cache (ldconfig -p)")} and {variable} ({(Environment.GetEnvironmentVariable(variable) is { Length: > 0 } places ? places : "empty")})";
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

    [GeneratedRegex(@"\b\d{3,}\.\d+(\.\d+)?\b")]
    private static partial Regex Number();
}
