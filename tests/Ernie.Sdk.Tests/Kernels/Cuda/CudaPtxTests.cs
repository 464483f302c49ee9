using System.Diagnostics;
using System.Security.Cryptography;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The PTX in the assembly is what the kernels' text compiles to.</summary>
public sealed class CudaPtxTests
{
    private const string Prefix = "Ernie.Sdk.Kernels.Cuda.";
    private static readonly string s_folder = Path.Combine(SharedData.RepositoryRoot, "src", "Ernie.Sdk", "Kernels", "Cuda");
    private static readonly string[] s_targets = ["sm_80", "sm_90a"];

    [Fact]
    public void EveryFile_IsCompiledForBothTargets_FromItsText()
    {
        var sources = Directory.GetFiles(s_folder, "*.cu").Select(static path => Path.GetFileNameWithoutExtension(path)).Order().ToArray();
        Assert.NotEmpty(sources);
        var resources = typeof(KvBlockLayout).Assembly.GetManifestResourceNames().Where(static name => name.StartsWith(Prefix, StringComparison.Ordinal)).Order(StringComparer.Ordinal);
        Assert.Equal(sources.SelectMany(static name => s_targets.Select(target => $"{Prefix}{name}.{target}.ptx")).Order(StringComparer.Ordinal), resources);
        foreach (var name in sources)
        {
            byte[] text = [.. File.ReadAllBytes(Path.Combine(s_folder, "device.cuh")), .. File.ReadAllBytes(Path.Combine(s_folder, name + ".cu"))];
            foreach (var target in s_targets)
            {
                using var reader = new StreamReader(typeof(KvBlockLayout).Assembly.GetManifestResourceStream($"{Prefix}{name}.{target}.ptx")!);
                Assert.True($"// source sha256: {Convert.ToHexStringLower(SHA256.HashData(text))}" == reader.ReadLine(), $"{name}.cu or device.cuh has changed since {name}.{target}.ptx was made: run Kernels/Cuda/compile.sh.");
                Assert.Contains($".target {target}\n", reader.ReadToEnd(), StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public async Task Compiling_GivesTheCommittedPtx_WithoutWarnings()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && HasClang(), "No clang-19 (apt-get install clang-19) that could compile the CUDA kernels.");
        using var folder = new TemporaryFolder();
        var result = await ChildProcess.RunAsync("bash", [Path.Combine(s_folder, "compile.sh"), folder.Path], limit: TimeSpan.FromMinutes(5));
        Assert.True(result.ExitCode == 0, result.Error);
        Assert.Empty(result.Error);
        foreach (var path in Directory.GetFiles(folder.Path))
            Assert.True(File.ReadAllBytes(path).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(s_folder, "ptx", Path.GetFileName(path)))), $"{Path.GetFileName(path)} is stale, or another clang made it: run Kernels/Cuda/compile.sh.");
    }

    private static bool HasClang()
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo("clang-19", "--version") { RedirectStandardOutput = true });
            process!.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
