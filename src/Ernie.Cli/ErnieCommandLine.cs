using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Parsing;
using Ernie.Cli.Commands;

namespace Ernie.Cli;

/// <summary>The command <c>ernie</c>: parses arguments, runs one command, and turns whatever happens into an exit code and at most one line of error.</summary>
internal static class ErnieCommandLine
{
    private const string Description = "Downloads ERNIE 4.5 checkpoints, exports them to ONNX, inspects and checks them, and runs them.";
    private const string Details = "Exit codes: 0 success; 1 bad input or a damaged file; 2 wrong usage; 130 cancelled.";

    public static async Task<int> RunAsync(string[] args, CommandStreams streams, CancellationToken cancellationToken = default)
    {
        var code = await InvokeAsync(args, streams, cancellationToken).ConfigureAwait(false);
        try
        {
            // Lines that were finished before an error belong to the caller.
            await streams.Out.FlushAsync(CancellationToken.None).ConfigureAwait(false);
        }
        catch (IOException e)
        {
            // After an error it is most likely the same one.
            if (code != ExitCode.Success || IsBrokenPipe(e)) return code;
            await ReportAsync(streams, $"ernie: {ErrorLine.Of(e)}").ConfigureAwait(false);
            return ExitCode.BadInput;
        }
        catch (Exception e) when (e is UnauthorizedAccessException or ObjectDisposedException)
        {
            if (code != ExitCode.Success) return code;
            await ReportAsync(streams, "ernie: standard output cannot be written to: it is closed, or open for reading only.").ConfigureAwait(false);
            return ExitCode.BadInput;
        }
        return code;
    }

    public static ParseResult Parse(string[] args, CommandStreams streams) => Root(streams).Parse(args);

    private static async Task<int> InvokeAsync(string[] args, CommandStreams streams, CancellationToken cancellationToken)
    {
        var verbose = Array.Exists(args, static a => string.Equals(a, "debug", StringComparison.OrdinalIgnoreCase) || string.Equals(a, "trace", StringComparison.OrdinalIgnoreCase));
        try
        {
            var result = Parse(args.Length == 0 ? ["--help"] : args, streams);
            var isHelp = result.Action is ExampleHelp;
            var command = result.CommandResult.Command;
            // A variable of a script that was never set.
            var mistakes = Mistakes(result)
                .Concat(command.Arguments.Where(argument => result.GetResult(argument)?.Tokens.Any(static token => token.Value.Length == 0) == true).Select(static argument => $"{argument.Name} is empty.")).ToList();
            if (mistakes.Count > 0 && !isHelp)
            {
                foreach (var mistake in mistakes) await streams.Error.WriteLineAsync($"ernie: {mistake}").ConfigureAwait(false);
                await streams.Error.WriteLineAsync($"Run '{NameOf(result.CommandResult)} --help'.").ConfigureAwait(false);
                return ExitCode.Usage;
            }
            var configuration = new InvocationConfiguration { Output = streams.Out, Error = streams.Error, EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };
            return await result.InvokeAsync(configuration, cancellationToken).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            await ReportAsync(streams, "ernie: cancelled").ConfigureAwait(false);
            return ExitCode.Cancelled;
        }
        catch (IOException e) when (IsBrokenPipe(e))
        {
            return ExitCode.Success;
        }
#pragma warning disable CA1031 // The last stop: users get one line, whatever went wrong.
        catch (Exception e)
#pragma warning restore CA1031
        {
            await ReportAsync(streams, $"ernie: {(verbose ? e.ToString() : ErrorLine.Of(e))}").ConfigureAwait(false);
            return ExitCode.BadInput;
        }
    }

    /// <summary>What the parser complains of. A word that is no command is one complaint, not two: the missing command is the word.</summary>
    private static string[] Mistakes(ParseResult result)
    {
        var all = result.Errors.Select(static error => error.Message).ToArray();
        if (result.CommandResult.Command is not { Action: null, Subcommands.Count: > 0 }) return all;
        var named = Array.FindAll(all, message => result.UnmatchedTokens.Any(token => message.Contains(token, StringComparison.Ordinal)));
        return named.Length > 0 ? named : all;
    }

    /// <summary>The command with those that it belongs to, as it is typed.</summary>
    private static string NameOf(CommandResult command) => command.Parent is CommandResult parent ? $"{NameOf(parent)} {command.Command.Name}" : "ernie";

    /// <summary>Whether the reader of standard output is gone: <c>| head</c> has what it wanted.</summary>
    private static bool IsBrokenPipe(Exception failure)
    {
        const int Unix = 32, Windows = unchecked((int)0x8007006D), WindowsClosing = unchecked((int)0x800700E8);
        return failure is IOException { InnerException: null } && failure.HResult is Unix or Windows or WindowsClosing;
    }

    private static async Task ReportAsync(CommandStreams streams, string line)
    {
        try
        {
            await streams.Error.WriteLineAsync(line).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ObjectDisposedException)
        {
            // Standard error is closed or full; the exit code still tells.
        }
    }

    private static RootCommand Root(CommandStreams streams)
    {
        var root = new RootCommand(Description)
        {
            PullCommand.Create(streams),
            ChatCommand.Create(streams),
            DoctorCommand.Create(streams),
            InspectCommand.Create(streams),
            PlanCommand.Create(streams),
            ExportCommand.Create(streams),
            VerifyCommand.Create(streams),
            CacheCommand.Create(streams),
            TokenizeCommand.Create(streams),
            GenerateCommand.Create(streams),
            ServeCommand.Create(streams),
            LogitsCommand.Create(streams),
            PerplexityCommand.Create(streams),
            CompareCommand.Create(streams),
            ExpertsCommand.Create(streams),
            PlasMapCommand.Create(streams),
            SynthCommand.Create(streams),
            BenchCommand.Create(streams),
            BenchLayerCommand.Create(streams), BenchRequestsCommand.Create(streams), CompareAttentionCommand.Create(streams),
        };
        foreach (var option in root.Options.OfType<HelpOption>())
        {
            if (option.Action is HelpAction help) option.Action = new ExampleHelp(help, Details, ["ernie inspect samples/ernie-tiny-moe", "ernie export samples/ernie-tiny-moe tiny", "ernie generate --help"]);
        }
        return root;
    }
}
