using Ernie.Sdk.Native;

namespace Ernie.Cli;

/// <summary>Where commands read and write: the process's standard streams, or a test's.</summary>
internal sealed record CommandStreams(TextReader In, TextWriter Out, TextWriter Error)
{
    /// <summary>Whether <see cref="Error"/> is a terminal, which gets progress that redraws itself.</summary>
    public bool ErrorIsTerminal { get; init; }

    /// <summary>Whether somebody types into <see cref="In"/>.</summary>
    public bool InIsTerminal { get; init; }

    /// <summary>Whether lines of that terminal are edited here, key by key, because it cannot do more than take back characters.</summary>
    public bool EditsLines { get; init; }

    /// <summary>Whether <see cref="Out"/> is a terminal, which may get colours.</summary>
    public bool OutIsTerminal { get; init; }

    /// <summary>Where CUDA is looked for instead of the usual places.</summary>
    public CudaInstallation? Installation { get; init; }

    /// <summary>Who gets Ctrl+C in place of the command.</summary>
    public Interruption Interruption { get; } = new();
}
