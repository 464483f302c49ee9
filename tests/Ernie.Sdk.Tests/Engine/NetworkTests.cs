namespace Ernie.Sdk.Tests.Engine;

public sealed class NetworkTests(ITestOutputHelper output)
{
    [Fact]
    public async Task Answering_OpensNoSocket()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && IsInstalled("strace"), "strace is not installed.");
        using var folder = new TemporaryFolder();
        var log = folder.File("network");
        var model = await TinyModel.ExportedAsync();
        // The runtime's own diagnostics port is a Unix socket; switched off, nothing is left.
        var (exitCode, text, error) = await ChildProcess.RunAsync("strace", ["-f", "-qq", "-e", "trace=network", "-o", log, "dotnet", "exec", ChildProcess.Cli, "generate", model, "--max-tokens", "16"],
            environment: new Dictionary<string, string> { ["DOTNET_EnableDiagnostics"] = "0" }, input: "{\"ids\": [13, 336, 1446]}\n");
        Assert.SkipWhen(error.Contains("ptrace", StringComparison.Ordinal) || error.Contains("PTRACE", StringComparison.Ordinal), "This system does not allow tracing.");
        Assert.True(exitCode == 0, error);
        Assert.Contains("\"ids\"", text, StringComparison.Ordinal);
        var calls = File.ReadAllLines(log).Where(static line => !line.Contains("+++", StringComparison.Ordinal) && !line.Contains("---", StringComparison.Ordinal)).ToArray();
        output.WriteLine($"{calls.Length} network calls");
        Assert.Empty(calls);
    }

    private static bool IsInstalled(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Any(folder => File.Exists(Path.Combine(folder, program)));
}
