using Ernie.Sdk.GpuTests;
using Ernie.Sdk.GpuTests.Peers;

namespace Ernie.Sdk.Tests.GpuTests;

/// <summary>What the GPU's program makes of PyTorch, by an interpreter that only says so.</summary>
[Collection(FakeCuda.Collection)]
public sealed class TorchPeerTests(ITestOutputHelper output) : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Rows_AreBesideOurs()
    {
        var rows = await Run("""
            echo 'a warning of some library'
            echo '{"torch": "2.9.1", "cuda": "13.0", "device": "NVIDIA H200"}'
            echo '{"name": "copy on the device", "seconds": 0.25}'
            echo '{"name": "bf16 q|k|v, 1 tokens", "seconds": 0.5}'
            echo '{"name": "bf16 q|k|v, 20 tokens", "skipped": "OutOfMemoryError: CUDA out of memory"}'
            echo '{"name": "bf16 decode, 2 × 260, dense", "seconds": 2}'
            echo '{"name": "bf16 last 130 of 260, den'
            echo 'Traceback' >&2
            echo 'AcceleratorError: CUDA error' >&2
            exit 1
            """);
        var problem = Assert.Single(rows, static row => row.Name == "(some of PyTorch)");
        Assert.Equal(Outcome.Skip, problem.Outcome);
        Assert.Contains("ended with 1: Traceback AcceleratorError: CUDA error", problem.Note, StringComparison.Ordinal);
        var measured = rows.Where(static row => row.Outcome == Outcome.Measured).ToDictionary(static row => row.Name);
        Assert.Equal(["copy on the device", "bf16 q|k|v, 1 tokens", "bf16 decode, 2 × 260, dense"], measured.Keys);
        Assert.All(measured.Values, static row => Assert.Contains("PyTorch 2.9.1, CUDA 13.0, NVIDIA H200: ", row.Note, StringComparison.Ordinal));
        var linear = measured["bf16 q|k|v, 1 tokens"];
        Assert.Equal(500_000, linear.Figures!["PyTorch microseconds"], 0.1);
        Assert.Equal(500_000 / linear.Figures["oursMicroseconds"], linear.Value!.Value, 1e-6 * linear.Value.Value);
        Assert.Contains("out of memory", Assert.Single(rows, static row => row.Name == "bf16 q|k|v, 20 tokens").Note, StringComparison.Ordinal);
        Assert.Contains("came to an end before", Assert.Single(rows, static row => row.Name == "bf16 last 130 of 260, dense").Note, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""echo '{"absent": "PyTorch 2.9.1+cpu finds no CUDA device."}'""", "finds no CUDA device")]
    [InlineData("exit 3", "ended with 3")]
    [InlineData("true", "said nothing")]
    public async Task WithoutPyTorch_ThePieceSaysWhy(string script, string reason)
    {
        var row = Assert.Single(await Run(script));
        Assert.Equal(Outcome.Skip, row.Outcome);
        Assert.Contains(reason, row.Note, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WithoutPython_ThePieceSaysSo()
    {
        var row = Assert.Single(await RunWith(_folder.File("no-such-python")));
        Assert.Equal(Outcome.Skip, row.Outcome);
        Assert.Contains("--python names another interpreter", row.Note, StringComparison.Ordinal);
    }

    [Fact]
    public async Task TheScript_SaysWhatIsMissing()
    {
        const string python = "/usr/bin/python3";
        Assert.SkipUnless(File.Exists(python), $"There is no {python}.");
        // Without the site's packages there is no PyTorch.
        var isolated = _folder.File("python3");
        Script(isolated, $"exec {python} -S -I \"$@\"");
        var result = await TorchPeer.RunAsync(isolated, [], TestContext.Current.CancellationToken);
        Assert.Contains("No module named 'torch'", result.Absent, StringComparison.Ordinal);
    }

    private Task<IReadOnlyList<Row>> Run(string script)
    {
        var python = _folder.File("python3");
        Script(python, $"cat > /dev/null\n{script}");
        return RunWith(python);
    }

    private async Task<IReadOnlyList<Row>> RunWith(string python)
    {
        var driver = new FakeCuda();
        driver.Describe(bytes: 8L << 30);
        driver.Emulate();
        var (text, json) = (new StringWriter(), _folder.File("report.json"));
        var code = await new GpuTestProgram(driver.Installation(_folder), text, text).RunAsync(["--in-process", "--tiny", "--only", "bench/peer-pytorch", "--json", json, "--python", python]);
        output.WriteLine(text.ToString());
        Assert.Equal(0, code);
        driver.AssertNothingIsLeft();
        return Report.Read(json);
    }

    private static void Script(string file, string text)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The interpreter is a shell script.");
        File.WriteAllText(file, $"#!/bin/sh\n{text}\n");
        if (OperatingSystem.IsLinux()) File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }
}
