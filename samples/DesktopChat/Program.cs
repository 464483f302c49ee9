using System.Runtime.InteropServices;
using DesktopChat;

// A chat window. The model runs in this process; a browser that is installed shows the page, without its own bars and buttons. When the window is closed the program ends.
//
//   dotnet run --project samples/DesktopChat                          the tiny model beside this program
//   dotnet run --project samples/DesktopChat -- --model PATH          any other; the window can change it
//   dotnet run --project samples/DesktopChat -- --browser none        prints an address to open

if (!Arguments.TryParse(args, out var arguments)) return 2;

var interrupted = new TaskCompletionSource();
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, End);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, End);

await using var model = new ChatModel();
model.Load(arguments.Model, arguments.Think);
await using var server = await ChatServer.StartAsync(model);

if (arguments.Browser == Arguments.NoBrowser)
{
    Console.WriteLine($"Open {server.NewAddress()} in a browser of this machine. The address works once; Ctrl+C ends the program, as closing the page does.");
    await Task.WhenAny(server.Closed, interrupted.Task);
    return 0;
}

// Without a screen a browser would end at once, or wait for nobody.
if (arguments.Browser is null && Browsers.MissingDisplay() is { } missing)
{
    Console.WriteLine($"{missing} Open {server.NewAddress()} in a browser of this machine, through a tunnel (ssh -L) for example. The address works once; Ctrl+C ends the program.");
    await Task.WhenAny(server.Closed, interrupted.Task);
    return 0;
}

foreach (var browser in arguments.Browser is { } chosen ? [chosen] : Browsers.Installed())
{
    await using var window = AppWindow.Open(browser, server.NewAddress());
    if (window is null) continue;
    // A browser may be installed and yet not start.
    await Task.WhenAny(server.Opened, window.Exited, Task.Delay(TimeSpan.FromSeconds(30)), interrupted.Task);
    if (interrupted.Task.IsCompleted) return 0;
    if (!server.Opened.IsCompleted) continue;
    await Task.WhenAny(server.Closed, window.Exited, interrupted.Task);
    // Some browsers hand the window to another process and end: then the page says when it is closed.
    server.DoNotWaitForReload();
    await Task.WhenAny(server.Closed, interrupted.Task);
    return 0;
}

var address = server.NewAddress();
Console.WriteLine($"Open {address} in a browser of this machine, unless that has happened already. The address works once.");
Browsers.OpenDefault(address);
await Task.WhenAny(server.Closed, interrupted.Task);
return 0;

void End(PosixSignalContext context)
{
    context.Cancel = true;
    interrupted.TrySetResult();
}
