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

    public MessageReader(CommandStreams streams)
    {
        _isTerminal = streams.InIsTerminal;
        new Thread(() => Read(streams.In)) { IsBackground = true, Name = "ernie chat input" }.Start();
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
            if (!await _lines.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false)) return isFirst ? null : message.ToString();
            _lines.Reader.TryRead(out var line);
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

    private void Read(TextReader input)
    {
        try
        {
            while (input.ReadLine() is { } line) _lines.Writer.TryWrite(line);
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
