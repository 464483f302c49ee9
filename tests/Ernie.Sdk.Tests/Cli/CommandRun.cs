using Ernie.Cli;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>One run of the command line in this process, and what it left behind.</summary>
internal sealed record CommandRun(int ExitCode, string Out, string Error)
{
    public string[] Lines => Out.Split('\n', StringSplitOptions.RemoveEmptyEntries);

    public static Task<CommandRun> Async(params string[] args) => Async("", args);

    public static Task<CommandRun> Async(string input, string[] args) => RunAsync(input, args, TestContext.Current.CancellationToken);

    /// <summary>With a GPU of the test's.</summary>
    public static Task<CommandRun> Async(CudaInstallation installation, params string[] args) => RunAsync("", args, TestContext.Current.CancellationToken, installation);

    public static Task<CommandRun> CancelledAsync(params string[] args) => RunAsync("", args, new CancellationToken(canceled: true));

    public CommandRun Succeeded()
    {
        Assert.True(ExitCode == 0, $"exit code {ExitCode}: {Error}");
        return this;
    }

    private static async Task<CommandRun> RunAsync(string input, string[] args, CancellationToken cancellationToken, CudaInstallation? installation = null)
    {
        using var output = new StringWriter { NewLine = "\n" };
        using var error = new StringWriter { NewLine = "\n" };
        var exitCode = await ErnieCommandLine.RunAsync(args, new CommandStreams(new StringReader(input), output, error) { Installation = installation }, cancellationToken);
        return new CommandRun(exitCode, output.ToString(), error.ToString());
    }
}
