using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Native;

/// <summary>Starts ONNX Runtime once per process, the way this library promises: telemetry off, logs to <see cref="ILogger"/>, version checked.</summary>
internal static partial class OrtRuntime
{
    private const string TelemetryVariable = "ORT_DISABLE_TELEMETRY";
    private static readonly Lock s_gate = new();
    private static volatile ILogger? s_logger;
    private static string? s_version;
    // ONNX Runtime keeps the function pointer for the life of the process.
    private static readonly DOrtLoggingFunction s_log = Log;

    /// <summary>Version of the native library, once started.</summary>
    public static string Version => s_version ?? throw new InvalidOperationException("ONNX Runtime has not been started.");

    /// <param name="logger">Gets ONNX Runtime's warnings from now on; null leaves the last one in place.</param>
    /// <param name="allowTelemetry">Leaves ONNX Runtime's telemetry as its own defaults have it. Has no effect once ONNX Runtime runs.</param>
    /// <exception cref="PlatformNotSupportedException">The native library is missing, is too old, or does not fit this system.</exception>
    public static void Start(ILogger? logger, bool allowTelemetry)
    {
        if (logger is not null) s_logger = logger;
        lock (s_gate)
        {
            if (s_version is not null) return;
            if (UnsupportedSystem(RuntimeInformation.RuntimeIdentifier, IntPtr.Size == 8 && BitConverter.IsLittleEndian) is { } reason) throw new PlatformNotSupportedException(reason);
            if (!allowTelemetry) DisableTelemetry();
            try
            {
                NativeLibraries.EnsureRegistered();
                var version = Ort.Bind();
                if (!OrtEnv.IsCreated)
                {
                    var options = new EnvironmentCreationOptions { logId = "ernie", logLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_WARNING, loggingFunction = s_log };
                    OrtEnv.CreateInstanceWithOptions(ref options);
                }
                var managed = OrtEnv.Instance().GetVersionString();
                if (managed != version)
                    throw new PlatformNotSupportedException($"Two ONNX Runtime libraries are loaded, {managed} and {version}. Remove the one that does not come from the application's package.");
                s_version = version;
            }
            catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException or BadImageFormatException or TypeInitializationException)
            {
                throw new PlatformNotSupportedException(
                    $"The native ONNX Runtime could not be loaded on {RuntimeInformation.RuntimeIdentifier}. Add a package reference to Microsoft.ML.OnnxRuntime (CPU) or Microsoft.ML.OnnxRuntime.Gpu to the application. {e.Message}", e);
            }
        }
    }

    /// <summary>Why ONNX Runtime cannot run on a system, or null.</summary>
    /// <param name="rid">The system's runtime identifier, such as <c>linux-x64</c>.</param>
    /// <param name="is64BitLittleEndian">Whether the process is of that kind.</param>
    internal static string? UnsupportedSystem(string rid, bool is64BitLittleEndian)
    {
        if (rid.Contains("musl", StringComparison.Ordinal) || rid.StartsWith("alpine", StringComparison.Ordinal))
            return $"ONNX Runtime has no build for musl ({rid}). Use a glibc based system or container image.";
        if (rid.StartsWith("osx", StringComparison.Ordinal) && rid.EndsWith("-x64", StringComparison.Ordinal))
            return $"ONNX Runtime 1.31 has no build for macOS on Intel ({rid}). Use an Apple silicon machine.";
        return is64BitLittleEndian ? null : "Ernie.Sdk needs a 64-bit little-endian process.";
    }

    /// <summary>
    /// The variable must be in the environment that native code sees before ONNX Runtime initialises. On Unix .NET keeps a copy of its own, where the host's choice may be too.
    /// </summary>
    private static void DisableTelemetry()
    {
        var value = Environment.GetEnvironmentVariable(TelemetryVariable) ?? "1";
        Environment.SetEnvironmentVariable(TelemetryVariable, value);
        if (!OperatingSystem.IsWindows()) _ = SetEnv(TelemetryVariable, value, 1);
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetEnv(string name, string value, int overwrite);

    private static void Log(nint parameter, OrtLoggingLevel severity, string category, string logId, string codeLocation, string message)
    {
        try
        {
            var level = severity switch
            {
                OrtLoggingLevel.ORT_LOGGING_LEVEL_VERBOSE => LogLevel.Trace,
                OrtLoggingLevel.ORT_LOGGING_LEVEL_INFO => LogLevel.Debug,
                OrtLoggingLevel.ORT_LOGGING_LEVEL_WARNING => LogLevel.Warning,
                OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR => LogLevel.Error,
                _ => LogLevel.Critical,
            };
            s_logger?.Log(level, "ONNX Runtime: {Message} ({Location})", message, codeLocation);
        }
#pragma warning disable CA1031 // A logger's exception must not cross into native code.
        catch (Exception)
#pragma warning restore CA1031
        {
        }
    }
}
