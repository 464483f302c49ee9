namespace Ernie.Sdk.Tests.Interop;

/// <summary>OpenAI's client for JavaScript, of the version that <c>Node/package-lock.json</c> pins, against <c>ernie serve</c>.</summary>
public sealed class OpenAINodeClientTests(ServeProcess server, ITestOutputHelper output) : IClassFixture<ServeProcess>
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(3);

    [Fact]
    public async Task EveryCheck_Passes()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable("CI") == "true" || Environment.GetEnvironmentVariable("ERNIE_FULL") == "1", "Installs a package of npm: set CI=true or ERNIE_FULL=1 to run it.");
        Assert.SkipWhen(Find("node") is null || Find("npm") is null, "Needs node and npm: install Node.js 20 or later.");
        using var folder = new TemporaryFolder();
        var sources = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Interop", "Node");
        foreach (var file in new[] { "package.json", "package-lock.json", "checks.mjs" }) File.Copy(Path.Combine(sources, file), folder.File(file));
        var installed = await ChildProcess.RunAsync(Find("npm")!, ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder.Path, s_limit);
        Assert.True(installed.ExitCode == 0, installed.Output + installed.Error);
        var checks = await ChildProcess.RunAsync(Find("node")!, ["checks.mjs", server.Url.OriginalString.TrimEnd('/'), ServeProcess.Key, ServeProcess.ModelId], folder.Path, s_limit);
        output.WriteLine(checks.Output);
        Assert.True(checks.ExitCode == 0, checks.Output + checks.Error);
        Assert.Equal(["chat", "stream", "streamHelper", "tools", "runTools", "jsonSchema", "logprobs", "completions", "models", "errors", "abort"], checks.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));
    }

    private static string? Find(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Where(static folder => folder.Length > 0)
        .SelectMany(folder => new[] { program, $"{program}.cmd", $"{program}.exe" }.Select(name => Path.Combine(folder, name))).FirstOrDefault(File.Exists);
}
