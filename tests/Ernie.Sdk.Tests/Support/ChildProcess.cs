using System.Diagnostics;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Runs a program to its end and keeps what it printed.</summary>
internal static class ChildProcess
{
    public sealed record Result(int ExitCode, string Output, string Error);

    /// <summary>Path of the command-line tool's assembly.</summary>
    public static string Cli { get; } = Path.Combine(AppContext.BaseDirectory, "ernie.dll");

    /// <summary>Starts a program that the caller watches, and leaves what it prints alone.</summary>
    public static Process Start(string program, params IEnumerable<string> arguments) => Process.Start(new ProcessStartInfo(program, arguments)) ?? throw new InvalidOperationException($"{program} did not start.");

    /// <summary>Ctrl+C does nothing to programs started by nohup or in the background of a script, nor to those that they start.</summary>
    public static void SkipWhereInterruptsAreIgnored()
    {
        const string Name = "SigIgn:";
        if (!File.Exists("/proc/self/status")) return;
        var ignored = Convert.ToUInt64(File.ReadLines("/proc/self/status").First(static line => line.StartsWith(Name, StringComparison.Ordinal))[Name.Length..].Trim(), 16);
        // Bit 1 is signal 2.
        Assert.SkipWhen((ignored & 2) != 0, "The tests were started where Ctrl+C is ignored, as by nohup or in the background of a script.");
    }

    public static async Task<Result> RunAsync(string program, IEnumerable<string> arguments, string? folder = null, TimeSpan? limit = null, IReadOnlyDictionary<string, string>? environment = null, string input = "")
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? Environment.CurrentDirectory,
        };
        // The test host's own settings must not reach a build or another runtime.
        foreach (var name in start.Environment.Keys.Where(static key => key.StartsWith("MSBUILD", StringComparison.OrdinalIgnoreCase) || key is "DOTNET_ROOT_X64" or "VSTEST_CONNECTION_TIMEOUT").ToArray())
            start.Environment.Remove(name);
        foreach (var (name, value) in environment ?? new Dictionary<string, string>()) start.Environment[name] = value;
        using var process = Process.Start(start) ?? throw new InvalidOperationException($"{program} did not start.");
        using var cancellation = new CancellationTokenSource(limit ?? TimeSpan.FromMinutes(2));
        try
        {
            await process.StandardInput.WriteAsync(input);
            process.StandardInput.Close();
            var output = process.StandardOutput.ReadToEndAsync(cancellation.Token);
            var error = process.StandardError.ReadToEndAsync(cancellation.Token);
            await process.WaitForExitAsync(cancellation.Token);
            return new Result(process.ExitCode, await output, await error);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{program} {string.Join(' ', arguments)} did not end in time.");
        }
    }
}
