using System.Runtime.CompilerServices;
using System.Text;

namespace Ernie.Cli;

/// <summary>Reads JSON lines from a file or standard input. Blank lines are skipped, but counted.</summary>
internal sealed class JsonLineReader : IDisposable
{
    private readonly TextReader _reader;
    private readonly FileStream? _file;
    private readonly string _source;
    private readonly long _lineCount;

    private JsonLineReader(TextReader reader, FileStream? file, string source) => (_reader, _file, _source, _lineCount) = (reader, file, source, file is null ? 0 : CountLines(file));

    /// <summary>How much of a file is done when <paramref name="within"/> of a line is, 0 to 1; null for standard input.</summary>
    public double? Fraction(JsonLine line, double within) => _file is null ? null : (line.Number - 1 + within) / _lineCount;

    /// <summary>Whether lines come from standard input, where someone may wait for each answer before the next line.</summary>
    public bool IsInteractive => _file is null;

    public static JsonLineReader Open(string? path, CommandStreams streams)
    {
        if (path is null or "-") return new JsonLineReader(streams.In, null, "standard input");
        var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1);
        return new JsonLineReader(new StreamReader(file, new UTF8Encoding(false, throwOnInvalidBytes: true), detectEncodingFromByteOrderMarks: true, bufferSize: 1 << 16), file, path);
    }

    public async IAsyncEnumerable<JsonLine> ReadAllAsync([EnumeratorCancellation] CancellationToken cancellationToken)
    {
        for (var number = 1; await NextAsync(number, cancellationToken).ConfigureAwait(false) is { } content; number++)
        {
            if (!string.IsNullOrWhiteSpace(content)) yield return new JsonLine(_source, number, content);
        }
    }

    public void Dispose()
    {
        if (_file is not null) _reader.Dispose();
    }

    /// <summary>Lines of a file, the unfinished last one included; a gigabyte takes well under a second. Something like a pipe, which cannot go back, counts as one.</summary>
    private static long CountLines(FileStream file)
    {
        if (!file.CanSeek) return 1;
        var buffer = new byte[1 << 16];
        long count = 1;
        while (file.Read(buffer) is > 0 and var read) count += buffer.AsSpan(0, read).Count((byte)'\n');
        file.Position = 0;
        return count;
    }

    private async Task<string?> NextAsync(int number, CancellationToken cancellationToken)
    {
        try
        {
            // A console does not hear of cancellation while it waits for a key.
            return await _reader.ReadLineAsync(cancellationToken).AsTask().WaitAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (DecoderFallbackException e)
        {
            throw new InvalidDataException($"{_source}, line {number} or soon after: this is no UTF-8.", e);
        }
    }
}
