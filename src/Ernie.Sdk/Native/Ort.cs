using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Native;

/// <summary>ONNX Runtime's C table, reached through the managed package's public <see cref="OrtApi"/> struct: a field's name finds its slot.</summary>
internal static unsafe partial class Ort
{
    /// <summary>Lowest table we need: 25 brought the allocation-free shape getter (ONNX Runtime 1.25).</summary>
    public const uint ApiVersion = 25;

    private static OrtApi* s_api;

    public static OrtApi* Api => s_api != null ? s_api : throw new InvalidOperationException("OrtRuntime.Start has not run.");

    [LibraryImport(NativeLibraries.OnnxRuntime, EntryPoint = "OrtGetApiBase")]
    private static partial OrtApiBase* OrtGetApiBase();

    /// <summary>Loads the table and returns the native library's version.</summary>
    internal static string Bind()
    {
        var apiBase = OrtGetApiBase();
        var version = Marshal.PtrToStringUTF8((nint)((delegate* unmanaged<byte*>)apiBase->GetVersionString)()) ?? "unknown";
        s_api = ((delegate* unmanaged<uint, OrtApi*>)apiBase->GetApi)(ApiVersion);
        if (s_api == null)
            throw new PlatformNotSupportedException($"The native ONNX Runtime is version {version}; Ernie.Sdk needs 1.25 or newer. Reference a newer Microsoft.ML.OnnxRuntime or Microsoft.ML.OnnxRuntime.Gpu package.");
        return version;
    }

    public static nint CreateStatus(string message)
    {
        const int OrtRuntimeException = 6;
        fixed (byte* text = Utf8(message))
            return ((delegate* unmanaged<int, byte*, nint>)Api->CreateStatus)(OrtRuntimeException, text);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Check(nint status)
    {
        if (status != 0) Throw(status);
    }

    /// <summary>Whether the call succeeded; a failing status is released.</summary>
    public static bool Succeeded(nint status)
    {
        if (status == 0) return true;
        ((delegate* unmanaged<nint, void>)Api->ReleaseStatus)(status);
        return false;
    }

    /// <summary>Null-terminated UTF-8.</summary>
    public static byte[] Utf8(string text)
    {
        var bytes = new byte[Encoding.UTF8.GetByteCount(text) + 1];
        Encoding.UTF8.GetBytes(text, bytes);
        return bytes;
    }

    private static void Throw(nint status)
    {
        var code = ((delegate* unmanaged<nint, int>)Api->GetErrorCode)(status);
        var message = Marshal.PtrToStringUTF8((nint)((delegate* unmanaged<nint, byte*>)Api->GetErrorMessage)(status)) ?? "";
        ((delegate* unmanaged<nint, void>)Api->ReleaseStatus)(status);
        throw new OrtStatusException(code, message);
    }
}
