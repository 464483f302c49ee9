using System.Runtime.InteropServices;
using System.Text;
using Ernie.Cli;
using Microsoft.Win32.SafeHandles;

// Strict UTF-8 both ways: a damaged byte is reported instead of becoming another character.
var utf8 = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
using var input = new StreamReader(Console.OpenStandardInput(), utf8);
// Not the console's own stream on Unix: it hides that the reader of a pipe is gone, and the command would compute on for nobody.
var target = OperatingSystem.IsWindows() ? Console.OpenStandardOutput() : new FileStream(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, bufferSize: 0);
var output = new StreamWriter(target, utf8, bufferSize: 1 << 16) { NewLine = "\n" };
var streams = new CommandStreams(input, output, Console.Error) { ErrorIsTerminal = !Console.IsErrorRedirected };

using var cancellation = new CancellationTokenSource();
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
return await ErnieCommandLine.RunAsync(args, streams, cancellation.Token);

void Cancel(PosixSignalContext context)
{
    // The second time the process ends at once.
    context.Cancel = !cancellation.IsCancellationRequested;
    cancellation.Cancel();
}
