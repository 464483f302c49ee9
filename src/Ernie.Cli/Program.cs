using System.Runtime.InteropServices;
using System.Text;
using Ernie.Cli;
using Microsoft.Win32.SafeHandles;

// Strict UTF-8 both ways: a damaged byte is reported instead of becoming another character.
var utf8 = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
using var input = new StreamReader(Console.OpenStandardInput(), utf8);
var output = new StreamWriter(StandardOutput(), utf8, bufferSize: 1 << 16) { NewLine = "\n" };
var streams = new CommandStreams(input, output, Console.Error) { ErrorIsTerminal = !Console.IsErrorRedirected, InIsTerminal = !Console.IsInputRedirected, OutIsTerminal = !Console.IsOutputRedirected, EditsLines = !OperatingSystem.IsWindows() && Environment.GetEnvironmentVariable("TERM") is { Length: > 0 } and not "dumb" };

using var cancellation = new CancellationTokenSource();
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
return await ErnieCommandLine.RunAsync(args, streams, cancellation.Token);

// On Unix the console's own stream hides that the reader of a pipe is gone, and the command would compute on for nobody. A file keeps that stream: another would write at a position of its own,
// over what the shell's other commands write to the same file.
static Stream StandardOutput()
{
    if (OperatingSystem.IsWindows()) return Console.OpenStandardOutput();
    try
    {
        var stream = new FileStream(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, bufferSize: 0);
        if (!stream.CanSeek) return stream;
    }
    catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
    {
        // Closed: the console's stream says so when it is written to.
    }
    return Console.OpenStandardOutput();
}

void Cancel(PosixSignalContext context)
{
    if (context.Signal == PosixSignal.SIGINT && streams.Interruption.Deliver())
    {
        context.Cancel = true;
        return;
    }
    // The second time the process ends at once.
    context.Cancel = !cancellation.IsCancellationRequested;
    cancellation.Cancel();
}
