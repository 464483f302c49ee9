using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>Finds native libraries for this assembly.</summary>
internal static class NativeLibraries
{
    public const string OnnxRuntime = "onnxruntime";

    /// <summary>
    /// Windows ships an onnxruntime.dll of its own in System32. Only the application's copy is acceptable: the one the host's dependency list, the assembly's folder
    /// or the application's folder gives, which is where the managed package looks too.
    /// </summary>
    private static readonly bool s_registered = Register();

    /// <summary>Must come before the first P/Invoke into ONNX Runtime.</summary>
    public static void EnsureRegistered() => _ = s_registered;

    /// <summary>Path of a native library that this process has loaded.</summary>
    public static string? LoadedFrom(string name)
    {
        using var process = Process.GetCurrentProcess();
        return process.Modules.Cast<ProcessModule>().Select(static m => m.FileName).FirstOrDefault(file => Path.GetFileNameWithoutExtension(file) is var plain && (plain == name || plain == "lib" + name || plain.StartsWith($"lib{name}.so", StringComparison.Ordinal)));
    }

    private static bool Register()
    {
        NativeLibrary.SetDllImportResolver(typeof(NativeLibraries).Assembly, Resolve);
        return true;
    }

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath)
    {
        if (name != OnnxRuntime) return 0;
        if (NativeLibrary.TryLoad(name, assembly, DllImportSearchPath.AssemblyDirectory, out var handle)) return handle;
        var file = OperatingSystem.IsWindows() ? "onnxruntime.dll" : OperatingSystem.IsMacOS() ? "libonnxruntime.dylib" : "libonnxruntime.so";
        foreach (var folder in new[] { "", Path.Combine("runtimes", RuntimeInformation.RuntimeIdentifier, "native") })
        {
            if (NativeLibrary.TryLoad(Path.Combine(AppContext.BaseDirectory, folder, file), out handle)) return handle;
        }
        throw new DllNotFoundException($"{file} was not found in {AppContext.BaseDirectory} or among the application's dependencies.");
    }
}
