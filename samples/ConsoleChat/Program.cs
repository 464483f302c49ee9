using ConsoleChat;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

// A chat in the console, on the tiny model beside this program or on any other.
//
//   dotnet run --project samples/ConsoleChat                                   chats
//   dotnet run --project samples/ConsoleChat -- --prompt "Who are you?"        answers once
//   dotnet run --project samples/ConsoleChat -- --model PATH                   PATH: a checkpoint, or an exported model
//   dotnet run --project samples/GpuChat -- --device cuda                      the same program on a GPU

const string Commands = "/new starts over, /exit ends, Ctrl+C stops an answer.";

if (!Arguments.TryParse(args, out var arguments)) return 2;

// Ctrl+C stops the answer that is being written. Without one it ends the program, as everywhere.
CancellationTokenSource? answering = null;
Console.CancelKeyPress += (_, e) =>
{
    if (answering is not { } running) return;
    e.Cancel = true;
    running.Cancel();
};

try
{
    // A checkpoint is exported to ONNX once, into a cache folder; an exported model is mapped as it is.
    await using var model = await ErnieModel.LoadAsync(arguments.Model, new ErnieModelOptions { Device = arguments.Device }, new ExportProgress());
    using var client = model.AsChatClient();
    var history = new List<ChatMessage>();

    if (arguments.Prompt is { } prompt) return await AnswerAsync(client, history, prompt) ? 0 : 130;

    var interactive = !Console.IsInputRedirected;
    if (interactive) Console.WriteLine($"{model.ModelId}, {model.ContextLength} tokens of context. {Commands}");
    while (true)
    {
        if (interactive) Console.Write("\n> ");
        var line = Console.ReadLine();
        if (line is null) return 0;
        // Ctrl+U takes back what stands before it; Console.ReadLine leaves that to its caller.
        line = line[(line.LastIndexOf('\u0015') + 1)..];
        switch (line.Trim())
        {
            case "/exit":
                return 0;
            case "/new" or "/clear":
                history.Clear();
                break;
            case "/help":
                // Only answers go to standard output, which may be a file.
                Console.Error.WriteLine(Commands);
                break;
            case not "":
                await AnswerAsync(client, history, line);
                break;
        }
    }
}
catch (Exception e) when (e is InvalidDataException or NotSupportedException or IOException or UnauthorizedAccessException or InvalidOperationException or ArgumentException)
{
    // Messages of the library name what is wrong and what helps.
    Console.Error.WriteLine(e.Message);
    return 1;
}

// False when the answer was stopped.
async Task<bool> AnswerAsync(IChatClient client, List<ChatMessage> history, string text)
{
    history.Add(new ChatMessage(ChatRole.User, text));
    var updates = new List<ChatResponseUpdate>();
    var stopped = false;
    using var cancellation = new CancellationTokenSource();
    answering = cancellation;
    try
    {
        await foreach (var update in client.GetStreamingResponseAsync(history, cancellationToken: cancellation.Token))
        {
            updates.Add(update);
            Console.Write(update.Text);
        }
    }
    catch (OperationCanceledException)
    {
        Console.Write(" (stopped)");
        stopped = true;
    }
    catch (ArgumentException e)
    {
        // For example a conversation that has outgrown the context.
        Console.Error.WriteLine(e.Message);
    }
    answering = null;
    Console.WriteLine();
    // What was said so far stays part of the conversation; without an answer the question goes too.
    if (updates.Count > 0) history.AddMessages(updates);
    else history.RemoveAt(history.Count - 1);
    return !stopped;
}
