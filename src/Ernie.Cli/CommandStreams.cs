namespace Ernie.Cli;

/// <summary>Where commands read and write: the process's standard streams, or a test's.</summary>
internal sealed record CommandStreams(TextReader In, TextWriter Out, TextWriter Error)
{
    /// <summary>Whether <see cref="Error"/> is a terminal, which gets progress that redraws itself.</summary>
    public bool ErrorIsTerminal { get; init; }
}
