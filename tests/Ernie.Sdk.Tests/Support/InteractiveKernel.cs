using System.Diagnostics;
using System.Text;
using System.Text.Json.Nodes;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The C# kernel of .NET Interactive, which notebooks run in, by its protocol over standard input and output: a line of JSON for each command and each event.</summary>
internal sealed class InteractiveKernel : IAsyncDisposable
{
    private const string Tool = "Microsoft.dotnet-interactive", Version = "1.0.712001";
    private static readonly Lazy<Task<string?>> s_installed = new(InstallAsync);
    private static readonly TemporaryFolder s_folder = new();

    private readonly Process _process;
    private readonly CancellationTokenSource _limit;
    private int _commands;

    static InteractiveKernel() => AppDomain.CurrentDomain.ProcessExit += (_, _) => s_folder.Dispose();

    private InteractiveKernel(Process process, TimeSpan limit) => (_process, _limit) = (process, new CancellationTokenSource(limit));

    /// <summary>Starts a kernel in a folder; the test skips where the tool cannot be had.</summary>
    public static async Task<InteractiveKernel> StartAsync(string folder, string data, TimeSpan limit)
    {
        var tool = await s_installed.Value;
        Assert.SkipWhen(tool is null, $"{Tool} {Version} could not be installed by dotnet tool install.");
        var start = new ProcessStartInfo(tool, ["stdio", "--default-kernel", "csharp", "--working-dir", folder])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardInputEncoding = new UTF8Encoding(false),
            StandardOutputEncoding = new UTF8Encoding(false),
        };
        // The test host's own settings must not reach builds that a notebook starts.
        foreach (var name in start.Environment.Keys.Where(static key => key.StartsWith("MSBUILD", StringComparison.OrdinalIgnoreCase)).ToArray()) start.Environment.Remove(name);
        start.Environment["DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT"] = "1";
        start.Environment["XDG_DATA_HOME"] = data;
        var process = Process.Start(start)!;
        process.ErrorDataReceived += static (_, _) => { };
        process.BeginErrorReadLine();
        var kernel = new InteractiveKernel(process, limit);
        while ($"{(await kernel.NextAsync())["eventType"]}" != "KernelReady")
        {
        }
        return kernel;
    }

    /// <summary>Runs a cell and returns what it printed and showed, as outputs of a notebook; an error fails the test.</summary>
    public async Task<JsonArray> RunAsync(string code)
    {
        var token = $"cell-{++_commands}";
        await _process.StandardInput.WriteLineAsync(new JsonObject { ["token"] = token, ["commandType"] = "SubmitCode", ["command"] = new JsonObject { ["code"] = code, ["targetKernelName"] = "csharp" } }.ToJsonString());
        await _process.StandardInput.FlushAsync();
        var outputs = new JsonArray();
        while (true)
        {
            var message = await NextAsync();
            switch ($"{message["eventType"]}")
            {
                case "StandardOutputValueProduced":
                    outputs.Add(new JsonObject { ["output_type"] = "stream", ["text"] = $"{message["event"]!["formattedValues"]![0]!["value"]}" });
                    break;
                case "DisplayedValueProduced":
                    outputs.Add(new JsonObject { ["output_type"] = "display_data", ["text"] = $"{message["event"]!["formattedValues"]![0]!["value"]}" });
                    break;
                case "CommandSucceeded" when $"{message["command"]?["token"]}" == token:
                    return outputs;
                case "CommandFailed" when $"{message["command"]?["token"]}" == token:
                    Assert.Fail($"{message["event"]!["message"]}\n{code}");
                    break;
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        await _process.WaitForExitAsync();
        _process.Dispose();
        _limit.Dispose();
    }

    private async Task<JsonNode> NextAsync()
    {
        try
        {
            while (true)
            {
                var line = await _process.StandardOutput.ReadLineAsync(_limit.Token) ?? throw new InvalidOperationException("The kernel ended.");
                if (line.StartsWith('{')) return JsonNode.Parse(line)!;
            }
        }
        catch (OperationCanceledException)
        {
            throw new TimeoutException("The kernel did not answer in time.");
        }
    }

    private static async Task<string?> InstallAsync()
    {
        var result = await ChildProcess.RunAsync("dotnet", ["tool", "install", Tool, "--version", Version, "--tool-path", s_folder.Path], limit: TimeSpan.FromMinutes(5));
        return result.ExitCode == 0 ? s_folder.File(OperatingSystem.IsWindows() ? "dotnet-interactive.exe" : "dotnet-interactive") : null;
    }
}
