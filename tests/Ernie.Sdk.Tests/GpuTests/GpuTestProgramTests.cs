using Ernie.Sdk.GpuTests;
using Ernie.Sdk.Native;
using Microsoft.Extensions.Time.Testing;

namespace Ernie.Sdk.Tests.GpuTests;

/// <summary>The program that checks and measures on a real GPU, over the emulated one: it works, and sees what is wrong.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuTestProgramTests(ITestOutputHelper output) : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Kernels_PassOnTheEmulatedGpu()
    {
        var driver = Driver();
        var (code, rows, text) = await Run(driver.Installation(_folder), "--stage", "kernels");
        Assert.True(code == 0, text);
        AssertRan("kernels", rows);
        driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Models_PassOnTheEmulatedGpu()
    {
        using var gpu = new EmulatedGpu();
        var (code, rows, text) = await Run(gpu.Installation, "--stage", "model");
        Assert.True(code == 0, text);
        AssertRan("model", rows);
        gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Benchmarks_RunOnTheEmulatedGpu()
    {
        using var gpu = new EmulatedGpu();
        var (code, rows, text) = await Run(gpu.Installation, "--stage", "bench");
        Assert.True(code == 0, text);
        AssertRan("bench", rows);
        // Peers are not there: ONNX Runtime's operators run on the CPU in their place.
        Assert.DoesNotContain(rows, static row => row.Outcome == Outcome.Skip && !row.Piece.StartsWith("bench/peer-", StringComparison.Ordinal));
        Assert.All(rows.Where(static row => row is { Piece: "bench/peer-onnxruntime", Outcome: Outcome.Skip }), static row => Assert.Equal("ONNX Runtime on the GPU", row.Name));
        Assert.Equal(4, rows.Count(static row => row is { Piece: "bench/peer-onnxruntime", Outcome: Outcome.Measured }));
        // Bars of either precision: for decode, with kernels that overlap and without, for prefill, and for long contexts with either cache.
        Assert.Equal(10, rows.Count(static row => row.Bar is not null));
        Assert.Contains("bar ≥ 60 % of the read rate over the bytes that a token needs: ", text, StringComparison.Ordinal);
        Assert.True(gpu.Driver.Graphs.Captured > 0);
        gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Pieces_RunInProcessesOfTheirOwn()
    {
        // The system's loader finds the driver there, and the driver the kernels.
        File.Copy(Driver().File, _folder.File("libcuda.so.1"));
        var environment = new Dictionary<string, string> { ["LD_LIBRARY_PATH"] = _folder.Path, ["FAKE_CUDA_KERNELS"] = CudaEmulation.Of("norm").File };
        var json = _folder.File("report.json");
        var result = await ChildProcess.RunAsync("dotnet", [Path.Combine(AppContext.BaseDirectory, "Ernie.Sdk.GpuTests.dll"), "--only", "kernels/norm", "--only", "kernels/sampling", "--tiny", "--json", json], environment: environment);
        output.WriteLine(result.Output + result.Error);
        // There is no emulation of the second piece's kernel.
        Assert.Equal(1, result.ExitCode);
        var rows = Report.Read(json);
        Assert.Equal([Outcome.Pass, Outcome.Fail], rows.GroupBy(static row => row.Piece).Select(static piece => piece.Select(static row => row.Outcome).Distinct().Single()));
        Assert.Contains("2 × 256", result.Output, StringComparison.Ordinal);
        Assert.Contains("FAIL: kernels/sampling", result.Output, StringComparison.Ordinal);
        // What was found stays when others run.
        result = await ChildProcess.RunAsync("dotnet", [Path.Combine(AppContext.BaseDirectory, "Ernie.Sdk.GpuTests.dll"), "--only", "kernels/load", "--tiny", "--json", json], environment: environment);
        Assert.Equal(0, result.ExitCode);
        Assert.Contains("report.json keeps", result.Output, StringComparison.Ordinal);
        Assert.Equal(["kernels/norm", "kernels/sampling", "kernels/load"], Report.Read(json).Select(static row => row.Piece).Distinct());
        Assert.Equal([json], Directory.GetFiles(_folder.Path, "report*"));
    }

    /// <summary>The first piece passes, the second ends its process or never ends, the third passes.</summary>
    [Theory]
    [InlineData("abort();", false, "its process ended with")]
    [InlineData("for (;;) pause();", true, "ran out of time")]
    public async Task APieceThatEndsItsProcess_OrHangs_LeavesTheOthers(string what, bool hangs, string note)
    {
        File.Copy(Driver().File, _folder.File("libcuda.so.1"));
        var trap = CompiledLibrary.Of(hangs ? "libhangs.so" : "libaborts.so", $"#include <stdlib.h>\n#include <unistd.h>\nint launch_add_rms_norm(void) {{ {what} return 0; }}");
        var environment = new Dictionary<string, string> { ["LD_LIBRARY_PATH"] = _folder.Path, ["FAKE_CUDA_KERNELS"] = string.Join(':', trap, CudaEmulation.Of("norm").File, CudaEmulation.Of("sampling").File), ["DOTNET_DbgEnableMiniDump"] = "0" };
        var json = _folder.File("report.json");
        var result = await ChildProcess.RunAsync("dotnet", [Path.Combine(AppContext.BaseDirectory, "Ernie.Sdk.GpuTests.dll"), "--only", "kernels/load", "--only", "kernels/norm", "--only", "kernels/sampling", "--tiny", "--limit", hangs ? "5" : "100", "--json", json], environment: environment);
        output.WriteLine(result.Output + result.Error);
        Assert.Equal(1, result.ExitCode);
        var rows = Report.Read(json).ToLookup(static row => row.Piece);
        Assert.Equal(["kernels/load", "kernels/norm", "kernels/sampling"], rows.Select(static piece => piece.Key));
        Assert.All(rows["kernels/load"].Concat(rows["kernels/sampling"]), static row => Assert.Equal(Outcome.Pass, row.Outcome));
        var row = Assert.Single(rows["kernels/norm"]);
        Assert.Equal(hangs ? Outcome.OutOfTime : Outcome.Fail, row.Outcome);
        Assert.Contains(note, row.Note, StringComparison.Ordinal);
        Assert.Equal([json], Directory.GetFiles(_folder.Path, "report*"));
    }

    [Fact]
    public async Task WithoutOnnxRuntimesProvider_KernelsAreTested_AndTheOthersSaySo()
    {
        var installation = Driver().Installation(_folder) with { Libraries = [("cuBLAS", "libno-such-cublas.so.13")] };
        var (code, rows, text) = await Run(installation, "--only", "kernels/norm", "--only", "model/tiny");
        Assert.Equal(1, code);
        Assert.Contains(rows, static row => row.Piece == "kernels/norm");
        Assert.All(rows.Where(static row => row.Piece == "kernels/norm"), static row => Assert.Equal(Outcome.Pass, row.Outcome));
        var skipped = Assert.Single(rows, static row => row.Piece == "model/tiny");
        Assert.Equal(Outcome.Skip, skipped.Outcome);
        Assert.Contains("cuBLAS", skipped.Note, StringComparison.Ordinal);
        Assert.Contains("libno-such-cublas.so.13 was not found", text, StringComparison.Ordinal);
        (code, rows, text) = await Run(installation, "--only", "model/two");
        Assert.Equal(1, code);
        Assert.Contains("--stage kernels needs the driver and a GPU alone", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WhatNoTimeIsLeftFor_IsSkipped()
    {
        var time = new FakeTimeProvider();
        int limit = 0, later = 0;
        Piece[] pieces =
        [
            new("kernels/slow", "takes 30 of 60 seconds", run => Ending(() => limit = run.Options.LimitSeconds, 30)), new("kernels/other", "takes 16 of the 30 that are left", run => Ending(() => later = run.Options.LimitSeconds, 16)),
            new("kernels/late", "never begins", static _ => throw new InvalidOperationException()),
        ];
        var (code, rows, _) = await Run(Driver().Installation(_folder), pieces, time, "--minutes", "1");
        Assert.Equal((0, 50, 20), (code, limit, later));
        var late = Assert.Single(rows);
        Assert.Equal(("kernels/late", Outcome.Skip), (late.Piece, late.Outcome));
        Assert.Contains("--minutes 1", late.Note, StringComparison.Ordinal);

        Task Ending(Action look, int seconds)
        {
            look();
            time.Advance(TimeSpan.FromSeconds(seconds));
            return Task.CompletedTask;
        }
    }

    [Fact]
    public void EveryPiece_HasAPlaceInTheOrder()
    {
        Assert.Equal("kernels/load", GpuTestProgram.All[0].Name);
        Assert.Equal("model/leak", GpuTestProgram.All[^1].Name);
        Assert.Equal(GpuTestProgram.All.Count, GpuTestProgram.All.Select(static piece => piece.Name).Distinct().Count());
        // The model is written before it is measured.
        string[] names = [.. GpuTestProgram.All.Select(static piece => piece.Name)];
        Assert.True(Array.IndexOf(names, "bench/synth-int2") < Array.IndexOf(names, "bench/decode-int2"));
    }

    [Fact]
    public async Task AKernelThatFails_FailsItsCheck_AndTheOthersGoOn()
    {
        var driver = Driver();
        driver.Fail("cuLaunchKernel", (CudaResult)700, 2);
        var (code, rows, _) = await Run(driver.Installation(_folder), "--only", "kernels/norm");
        Assert.Equal(1, code);
        var failed = Assert.Single(rows, static row => row.Outcome == Outcome.Fail);
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", failed.Note, StringComparison.Ordinal);
        Assert.Equal(2, rows.Count(static row => row.Outcome == Outcome.Pass));
    }

    [Fact]
    public async Task WithoutADriver_ItSaysWhatDoctorSays()
    {
        var (code, rows, text) = await Run(new CudaInstallation("libno-such-driver.so.1", []));
        Assert.Equal(1, code);
        Assert.Empty(rows);
        Assert.Contains("libno-such-driver.so.1 was not found", text, StringComparison.Ordinal);
        Assert.Contains("docker run --gpus all", text, StringComparison.Ordinal);
        Assert.Contains("Nothing was tested", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task APieceThatRunsOutOfTime_IsSaidSo()
    {
        var pieces = new[] { new Piece("kernels/endless", "waits", static run => Task.Delay(Timeout.Infinite, run.CancellationToken)), GpuTestProgram.All.Single(static piece => piece.Name == "kernels/norm") };
        var (code, rows, _) = await Run(Driver().Installation(_folder), pieces, TimeProvider.System, "--limit", "1");
        Assert.Equal(1, code);
        Assert.Contains("ran out of time", Assert.Single(rows, static row => row.Outcome == Outcome.OutOfTime).Note, StringComparison.Ordinal);
    }

    [Fact]
    public void TheSummary_NamesBarsThatAreMissed_WhichAreNoFailures()
    {
        var report = new Report(TextWriter.Null, null);
        report.Add(new Row { Piece = "bench/a", Name = "fast", Outcome = Outcome.Measured, Value = 3, Unit = "GB/s", Bar = Bar.AtLeast(3, 2, "≥ 2") });
        report.Add(new Row { Piece = "bench/a", Name = "long", Outcome = Outcome.Measured, Value = 1.7, Unit = "times as long", Bar = Bar.AtMost(1.7, 1.6, "≤ 1.6") });
        report.Add(new Row { Piece = "bench/a", Name = "nothing", Outcome = Outcome.Measured, Value = double.NaN, Unit = "GB/s", Bar = Bar.AtLeast(double.NaN, 2, "≥ 2") });
        Assert.False(report.HasFailed);
        Assert.Contains("1 of 3 bars reached", report.Summary(), StringComparison.Ordinal);
        Assert.Contains("missed: bench/a, long: ≤ 1.6; 1.700 times as long", report.Summary(), StringComparison.Ordinal);
        Assert.DoesNotContain("missed: bench/a, fast", report.Summary(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--only", "kernels/none")]
    [InlineData("--stage", "none")]
    [InlineData("--limit", "x")]
    [InlineData("--what", "")]
    public async Task WrongUsage_Is2(string option, string value) => Assert.Equal(2, (await Run(CudaInstallation.Default, option, value)).Code);

    private static FakeCuda Driver()
    {
        var driver = new FakeCuda();
        driver.Describe(bytes: 8L << 30);
        driver.Emulate();
        return driver;
    }

    /// <summary>Every piece of a stage has reported something.</summary>
    private static void AssertRan(string stage, IReadOnlyList<Row> rows) =>
        Assert.Equal(GpuTestProgram.All.Where(piece => piece.Stage == stage).Select(static piece => piece.Name), rows.Select(static row => row.Piece).Distinct());

    private Task<(int Code, IReadOnlyList<Row> Rows, string Text)> Run(CudaInstallation installation, params string[] arguments) => Run(installation, GpuTestProgram.All, TimeProvider.System, arguments);

    private async Task<(int Code, IReadOnlyList<Row> Rows, string Text)> Run(CudaInstallation installation, IReadOnlyList<Piece> pieces, TimeProvider time, params string[] arguments)
    {
        var text = new StringWriter();
        var json = _folder.File("report.json");
        var code = await new GpuTestProgram(installation, text, text) { Pieces = pieces, Time = time }.RunAsync(["--in-process", "--tiny", "--json", json, "--work", _folder.File("work"), .. arguments]);
        output.WriteLine(text.ToString());
        return (code, Report.Read(json), text.ToString());
    }
}
