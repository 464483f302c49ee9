using System.Text.Json;
using Ernie.Cli;
using Ernie.Cli.Doctor;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>What <c>ernie doctor</c> finds here, and what it makes of systems that lack something.</summary>
public sealed class DoctorCommandTests
{
    [Fact]
    public async Task WorkingMachine_ReturnsZero_AndSaysWhereItComputes()
    {
        using var cache = new TemporaryFolder();
        var run = (await CommandRun.Async("doctor", "--cache", cache.File("new"))).Succeeded();
        Assert.Contains("run on the CPU unless", run.Out, StringComparison.Ordinal);
        Assert.Contains("Models can run", run.Out, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(cache.File("new")));
    }

    [Fact]
    public async Task Json_HasTheSame()
    {
        using var cache = new TemporaryFolder();
        var run = (await CommandRun.Async("doctor", "--json", "--cache", cache.Path)).Succeeded();
        using var document = JsonDocument.Parse(run.Out);
        Assert.True(document.RootElement.GetProperty("cpu_works").GetBoolean());
        var cpu = document.RootElement.GetProperty("cpu").EnumerateArray().ToDictionary(static f => f.GetProperty("name").GetString()!, static f => f);
        Assert.Equal([".NET", "system", "ONNX Runtime", "kernels", "instruction sets", "cores", "memory", "cache folder"], cpu.Keys);
        Assert.StartsWith(Microsoft.ML.OnnxRuntime.OrtEnv.Instance().GetVersionString(), cpu["ONNX Runtime"].GetProperty("found").GetString(), StringComparison.Ordinal);
        // The findings are those of loading a model on a GPU.
        var gpu = document.RootElement.GetProperty("gpu").EnumerateArray().ToArray();
        Assert.Equal(["ONNX Runtime package", "GPU driver", "CUDA runtime", "cuBLAS", "cuBLAS Lt", "cuRAND", "GPU"], gpu.Select(static f => f.GetProperty("name").GetString()));
        // What is absent has a cure.
        Assert.All(gpu, static f => Assert.True(f.GetProperty("state").GetString() == "fine" || f.TryGetProperty("cure", out _)));
    }

    [Fact]
    public async Task CacheThatCannotBeWritten_ReturnsOne_WithTheCure()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("file"), "", TestContext.Current.CancellationToken);
        var run = await CommandRun.Async("doctor", "--cache", folder.File("file/cache"));
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("--cache FOLDER", run.Out, StringComparison.Ordinal);
        Assert.Contains("Models cannot run: cache folder.", run.Out, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("linux-musl-x64", true, "musl")]
    [InlineData("alpine.3.22-x64", true, "musl")]
    [InlineData("osx-x64", true, "Intel")]
    [InlineData("linux-arm", false, "64-bit")]
    public void SystemWithoutOnnxRuntime_IsBroken(string rid, bool is64Bit, string expected)
    {
        var finding = CpuFindings.System(rid, is64Bit);
        Assert.Equal(FindingState.Broken, finding.State);
        Assert.Contains(expected, finding.Cure, StringComparison.Ordinal);
        Assert.Equal(FindingState.Fine, CpuFindings.System("linux-x64", true).State);
    }

    [Fact]
    public void Kernels_ThatDoNotExist_AreBroken_SlowOnesPoor()
    {
        Assert.Equal(FindingState.Broken, CpuFindings.Kernels("nonsense").State);
        Assert.Equal(FindingState.Poor, CpuFindings.Kernels("reference").State);
        Assert.Equal(FindingState.Fine, CpuFindings.Kernels(null).State);
    }

    [Fact]
    public void OldRuntimeAndLittleMemory_AreTold()
    {
        Assert.Equal(FindingState.Broken, CpuFindings.Runtime(new Version(8, 0, 1)).State);
        Assert.Equal(FindingState.Poor, CpuFindings.Memory(1L << 30).State);
        Assert.Equal(FindingState.Fine, CpuFindings.Memory(8L << 30).State);
    }
}
