using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace Ernie.Cli;

/// <summary>The usual help, and after it the command's details and examples.</summary>
internal sealed class ExampleHelp(HelpAction help, string rootDetails, IReadOnlyList<string> rootExamples) : SynchronousCommandLineAction
{
    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        help.Invoke(parseResult);
        var command = parseResult.CommandResult.Command as DocumentedCommand;
        var output = parseResult.InvocationConfiguration.Output;
        output.WriteLine(command?.Details ?? rootDetails);
        output.WriteLine();
        output.WriteLine("Examples:");
        foreach (var example in command?.Examples ?? rootExamples) output.WriteLine($"  {example}");
        return ExitCode.Success;
    }
}
