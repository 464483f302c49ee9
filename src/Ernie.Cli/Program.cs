using System.Runtime.InteropServices;
using System.Text;
using Ernie.Cli;

// Strict UTF-8 both ways: a damaged byte is reported instead of becoming another character.
var utf8 = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
using var input = new StreamReader(Console.OpenStandardInput(), utf8);
await using var output = new StreamWriter(Console.OpenStandardOutput(), utf8, bufferSize: 1 << 16) { NewLine = "\n" };
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
