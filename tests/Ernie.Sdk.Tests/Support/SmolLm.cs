using System.Diagnostics;
using System.Text.Json;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// A small trained model in ERNIE's layout (shared/data/smollm2), converted by its own Python script and exported once. Conversions are kept in the system's temporary folder from run to run.
/// </summary>
internal static class SmolLm
{
    /// <summary>The variants' names, with the script's arguments.</summary>
    private static readonly Dictionary<string, string[]> s_arguments = new()
    {
        ["dense"] = ["--variant", "dense"],
        ["dense-sharded"] = ["--variant", "dense", "--shard-mb", "60"],
        ["dense-fp16"] = ["--variant", "dense", "--dtype", "fp16"],
        ["moe"] = ["--variant", "moe"],
        ["moe-f32-norms"] = ["--variant", "moe", "--f32-norms"],
        ["moe-sparse"] = ["--variant", "moe-sparse"],
    };

    /// <summary>Folder of a converted checkpoint; skips the test where data or Python with numpy is missing.</summary>
    public static string Checkpoint(string variant)
    {
        var script = SharedData.Path("smollm2", "convert.py");
        // Keyed by the script: another version of it converts anew.
        var root = Path.Combine(Path.GetTempPath(), $"ernie-smollm2-{new FileInfo(script).Length}");
        var folder = Path.Combine(root, variant);
        if (Directory.Exists(folder)) return folder;
        var python = FindPython();
        Assert.SkipWhen(python is null, "No python3 with numpy was found; the conversion of the real weights needs it. Install numpy (for example the package python3-numpy).");
        Directory.CreateDirectory(root);
        var work = Path.Combine(root, $".{variant}.{Environment.ProcessId}");
        var (code, text) = Run(python!, [script, .. s_arguments[variant], "--out", work], TimeSpan.FromMinutes(5));
        Assert.True(code == 0, $"{script} failed: {text}");
        try
        {
            // A rename, so that a run that is broken off leaves no half of a checkpoint.
            Directory.Move(work, folder);
        }
        catch (IOException) when (Directory.Exists(folder))
        {
            Directory.Delete(work, recursive: true);
        }
        return folder;
    }

    public static List<JsonElement> Lines(string file) => [.. File.ReadLines(SharedData.Path("smollm2", file)).Select(static line => JsonDocument.Parse(line).RootElement)];

    private static string? FindPython()
    {
        string[] names = OperatingSystem.IsWindows() ? ["python", "python3", "py"] : ["python3", "/usr/bin/python3", "/usr/local/bin/python3", "python"];
        return Array.Find(names, static name =>
        {
            try
            {
                return Run(name, ["-c", "import numpy"], TimeSpan.FromSeconds(30)).Code == 0;
            }
            catch (System.ComponentModel.Win32Exception)
            {
                return false;
            }
        });
    }

    private static (int Code, string Text) Run(string program, IEnumerable<string> arguments, TimeSpan limit)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(limit)) process.Kill(entireProcessTree: true);
        process.WaitForExit();
        return (process.ExitCode, output.Result + error.Result);
    }
}
