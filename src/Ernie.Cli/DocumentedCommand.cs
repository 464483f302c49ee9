using System.CommandLine;

namespace Ernie.Cli;

/// <summary>A command whose help goes on after the options: details, then examples.</summary>
internal sealed class DocumentedCommand(string name, string description, string details, params IReadOnlyList<string> examples) : Command(name, description)
{
    public string Details => details;
    public IReadOnlyList<string> Examples => examples;
}
