using System.Text;
using System.Threading.Channels;

namespace Ernie.Cli.Chatting;

/// <summary>
/// Reads messages of one line or several: a line that ends with a backslash goes on, and on a terminal so do lines that come together, as pasted text does. A thread of its own reads, because reading
/// from a terminal cannot be cancelled.
/// </summary>
internal sealed class MessageReader
{
    /// <summary>Nobody types a line as fast; a terminal passes on a paste faster.</summary>
    private static readonly TimeSpan s_paste = TimeSpan.FromMilliseconds(50);
    private readonly Channel<string> _lines = Channel.CreateUnbounded<string>();
    private readonly bool _isTerminal;
    private readonly LineEditor? _editor;
    private readonly Channel<string> _prompts = Channel.CreateUnbounded<string>();
    private bool _isAsked;

    public MessageReader(CommandStreams streams)
    {
        _isTerminal = streams.InIsTerminal;
        // It draws where the prompt stands.
        if (streams.InIsTerminal && streams.ErrorIsTerminal && streams.EditsLines) _editor = new LineEditor(static () => Console.ReadKey(intercept: true), streams.Error, Width);
        new Thread(() => Read(_editor is null ? streams.In.ReadLine : Edited)) { IsBackground = true, Name = "ernie chat input" }.Start();
    }

    /// <param name="prompt">Told whether a line is the first of a message, before it is waited for.</param>
    /// <param name="cancellationToken">Stops waiting.</param>
    /// <returns>Null at the end of the input.</returns>
    public async Task<string?> ReadAsync(Action<bool> prompt, CancellationToken cancellationToken)
    {
        var message = new StringBuilder();
        for (var isFirst = true; ; isFirst = false)
        {
            prompt(isFirst);
            Ask(isFirst);
            if (!await _lines.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false)) return isFirst ? null : message.ToString();
            _lines.Reader.TryRead(out var line);
            _isAsked = false;
            var goesOn = line!.EndsWith('\\');
            message.Append(goesOn ? line.AsSpan(0, line.Length - 1) : line);
            if (!goesOn && !await IsPastedAsync(line, isFirst, cancellationToken).ConfigureAwait(false)) return message.ToString();
            message.Append('\n');
        }
    }

    private async Task<bool> IsPastedAsync(string line, bool isFirst, CancellationToken cancellationToken)
    {
        // A command is one line, whatever follows it.
        if (!_isTerminal || (isFirst && line.StartsWith('/'))) return false;
        if (_editor is not null) return await MoreKeysAsync(cancellationToken).ConfigureAwait(false);
        using var wait = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        wait.CancelAfter(s_paste);
        try
        {
            return await _lines.Reader.WaitToReadAsync(wait.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return false;
        }
    }

    /// <summary>Keys are taken from the terminal only while a message is waited for: what somebody types during an answer must not be drawn into it.</summary>
    private void Ask(bool isFirst)
    {
        if (_editor is null || _isAsked) return;
        _isAsked = true;
        _prompts.Writer.TryWrite(ChatScreen.PromptText(isFirst));
    }

    private string? Edited() => _editor!.ReadLine(_prompts.Reader.ReadAsync().AsTask().GetAwaiter().GetResult());

    private static async Task<bool> MoreKeysAsync(CancellationToken cancellationToken)
    {
        for (var waited = TimeSpan.Zero; waited < s_paste; waited += s_paste / 5)
        {
            if (Console.KeyAvailable) return true;
            await Task.Delay(s_paste / 5, cancellationToken).ConfigureAwait(false);
        }
        return false;
    }

    private static int Width()
    {
        try
        {
            return Console.WindowWidth is > 0 and var width ? width : 80;
        }
        catch (IOException)
        {
            return 80;
        }
    }

    private void Read(Func<string?> readLine)
    {
        try
        {
            while (readLine() is { } line) _lines.Writer.TryWrite(line);
            _lines.Writer.Complete();
        }
#pragma warning disable CA1031 // Whoever waits for a message gets it.
        catch (Exception e)
#pragma warning restore CA1031
        {
            _lines.Writer.Complete(e);
        }
    }
}
