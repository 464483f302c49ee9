using System.Diagnostics;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A program of the test's output folder in a process of its own: for what may end a process, or is seen from outside only.</summary>
internal static class ChildProcess
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(2);

    /// <summary>Path of the command-line tool's assembly.</summary>
    public static string Cli { get; } = Path.Combine(AppContext.BaseDirectory, "ernie.dll");

    public static Process Start(string file, IEnumerable<string> arguments, params ReadOnlySpan<(string Name, string Value)> environment)
    {
        var start = new ProcessStartInfo(file, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true, UseShellExecute = false };
        foreach (var (name, value) in environment) start.Environment[name] = value;
        return Process.Start(start)!;
    }

    /// <summary>Runs the command-line tool with this text as its input; a hanging process is killed and fails the test.</summary>
    public static Task<(int ExitCode, string Out, string Error)> CliAsync(string input, params string[] arguments) => CompleteAsync(Start("dotnet", ["exec", Cli, .. arguments]), input);

    public static async Task<(int ExitCode, string Out, string Error)> CompleteAsync(Process process, string input = "")
    {
        using var _ = process;
        using var timeout = new CancellationTokenSource(s_patience);
        try
        {
            await process.StandardInput.WriteAsync(input);
            process.StandardInput.Close();
            var output = process.StandardOutput.ReadToEndAsync(timeout.Token);
            var error = process.StandardError.ReadToEndAsync(timeout.Token);
            await process.WaitForExitAsync(timeout.Token);
            return (process.ExitCode, await output, await error);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{process.StartInfo.FileName} {string.Join(' ', process.StartInfo.ArgumentList)} did not end within {s_patience}.");
        }
    }
}
