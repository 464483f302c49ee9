using System.Diagnostics;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Ernie.Sdk.GpuTests;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The PTX in the assembly is what the kernels' text compiles to.</summary>
public sealed partial class CudaPtxTests
{
    private static readonly string s_folder = Path.Combine(SharedData.RepositoryRoot, "src", "Ernie.Sdk", "Kernels", "Cuda");

    [Fact]
    public void EveryFile_IsCompiledForBothTargets_FromItsText()
    {
        var sources = Directory.GetFiles(s_folder, "*.cu").Select(static path => Path.GetFileNameWithoutExtension(path)).ToArray();
        Assert.NotEmpty(sources);
        foreach (var name in sources) AssertIsCompiled(s_folder, name, CudaPtx.Open);
        AssertIsCompiled(Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.GpuTests", "Probes"), "probe", CardProbes.Open);
        Assert.Null(CudaPtx.Open(sources[0], "sm_70"));

        static void AssertIsCompiled(string folder, string name, Func<string, string, Stream?> open)
        {
            byte[] text = [.. File.ReadAllBytes(Path.Combine(s_folder, "device.cuh")), .. File.ReadAllBytes(Path.Combine(folder, name + ".cu"))];
            foreach (var target in CudaPtx.Targets)
            {
                using var stream = open(name, target);
                Assert.True(stream is not null, $"{name}.cu has no PTX for {target}: run Kernels/Cuda/compile.sh.");
                using var reader = new StreamReader(stream);
                Assert.True($"// source sha256: {Convert.ToHexStringLower(SHA256.HashData(text))}" == reader.ReadLine(), $"{name}.cu or device.cuh has changed since {name}.{target}.ptx.gz was made: run Kernels/Cuda/compile.sh.");
                Assert.Contains($".target {target}\n", reader.ReadToEnd(), StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void EveryKernel_AwaitsTheOneBefore_BeforeItLooksAtAnythingButWeights()
    {
        var kernels = 0;
        foreach (var path in Directory.GetFiles(s_folder, "*.cu"))
        {
            foreach (Match kernel in KernelBody().Matches(File.ReadAllText(path)))
            {
                kernels++;
                var body = kernel.Groups[2].Value.TrimStart();
                if (body.StartsWith("prefetch_", StringComparison.Ordinal)) body = body[(body.IndexOf('\n', StringComparison.Ordinal) + 1)..].TrimStart();
                Assert.True(body.StartsWith("await_previous();", StringComparison.Ordinal), $"{Path.GetFileName(path)}: {kernel.Groups[1].Value} does not begin with await_previous().");
            }
            var name = Path.GetFileNameWithoutExtension(path);
            Assert.Equal(Count(name, "sm_90a", ".entry "), Count(name, "sm_90a", "griddepcontrol.wait"));
            Assert.Equal(0, Count(name, "sm_80", "griddepcontrol"));
        }
        Assert.InRange(kernels, 40, 200);

        static int Count(string name, string target, string what)
        {
            using var reader = new StreamReader(CudaPtx.Open(name, target)!);
            return reader.ReadToEnd().Split(what).Length - 1;
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
        Assert.NotEmpty(Directory.GetFiles(folder.Path));
        foreach (var path in Directory.GetFiles(folder.Path))
            Assert.True(Read(path) == Read(Path.Combine(s_folder, "ptx", Path.GetFileName(path))), $"{Path.GetFileName(path)} is stale, or another clang made it: run Kernels/Cuda/compile.sh.");

        static string Read(string path)
        {
            using var text = new StreamReader(new GZipStream(File.OpenRead(path), CompressionMode.Decompress));
            return text.ReadToEnd();
        }
    }

    [GeneratedRegex(@"^KERNEL\(\d+\)\s+(\w+)\([^{]*\{(.*?)^\}", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex KernelBody();

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
