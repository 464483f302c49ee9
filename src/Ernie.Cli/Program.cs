using System.Runtime.InteropServices;
using System.Text;
using Ernie.Cli;
using Microsoft.Win32.SafeHandles;

// Strict UTF-8 both ways: a damaged byte is reported instead of becoming another character.
var utf8 = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
using var input = new StreamReader(HasStandardInput() ? Console.OpenStandardInput() : Stream.Null, utf8);
var output = new StreamWriter(StandardOutput(), utf8, bufferSize: 1 << 16) { NewLine = "\n" };
var streams = new CommandStreams(input, output, Console.Error) { ErrorIsTerminal = !Console.IsErrorRedirected, InIsTerminal = !Console.IsInputRedirected, OutIsTerminal = !Console.IsOutputRedirected, EditsLines = !OperatingSystem.IsWindows() && Environment.GetEnvironmentVariable("TERM") is { Length: > 0 } and not "dumb" };

using var cancellation = new CancellationTokenSource();
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
return await ErnieCommandLine.RunAsync(args, streams, cancellation.Token);

// Where the caller closed it, the runtime's next file takes the number 0: a pipe of its own, which nobody ends. What was inherited is never closed on exec, and the runtime's files always are.
static bool HasStandardInput()
{
    if (!OperatingSystem.IsLinux()) return true;
    const int CloseOnExec = 0x80000;
    try
    {
        var flags = File.ReadLines("/proc/self/fdinfo/0").First(static line => line.StartsWith("flags:", StringComparison.Ordinal));
        return (Convert.ToInt32(flags["flags:".Length..].Trim(), 8) & CloseOnExec) == 0;
    }
    catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidOperationException or FormatException or OverflowException)
    {
        // Reading it will tell.
        return true;
    }
}

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
