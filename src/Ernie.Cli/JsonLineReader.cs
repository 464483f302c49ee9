using System.Runtime.CompilerServices;
using System.Text;

namespace Ernie.Cli;

/// <summary>Reads JSON lines from a file or standard input. Blank lines are skipped, but counted.</summary>
internal sealed class JsonLineReader : IDisposable
{
    private readonly TextReader _reader;
    private readonly FileStream? _file;
    private readonly string _source;

    private JsonLineReader(TextReader reader, FileStream? file, string source) => (_reader, _file, _source) = (reader, file, source);

    /// <summary>How much of a file has been read, 0 to 1; null for standard input.</summary>
    public double? Fraction => _file is { Length: > 0 } ? (double)_file.Position / _file.Length : null;

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
