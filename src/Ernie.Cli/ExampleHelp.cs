using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace Ernie.Cli;

/// <summary>The usual help, and after it the command's examples.</summary>
internal sealed class ExampleHelp(HelpAction help, IReadOnlyList<string> rootExamples) : SynchronousCommandLineAction
{
    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        help.Invoke(parseResult);
        var output = parseResult.InvocationConfiguration.Output;
        output.WriteLine("Examples:");
        foreach (var example in parseResult.CommandResult.Command is DocumentedCommand command ? command.Examples : rootExamples) output.WriteLine($"  {example}");
        return ExitCode.Success;
    }
}
