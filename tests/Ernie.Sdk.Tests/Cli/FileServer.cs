using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>One request as it came.</summary>
internal sealed record FileRequest(string Path, IReadOnlyDictionary<string, string> Headers)
{
    public string? Header(string name) => Headers.GetValueOrDefault(name);
}

/// <summary>What to answer. The length may be a lie, and the connection may be cut after some bytes.</summary>
internal sealed record FileAnswer(int Status, byte[] Body, params (string Name, string Value)[] Headers)
{
    public long? AnnouncedLength { get; init; }
    public int? CutAfter { get; init; }

    /// <summary>Honours Range and If-Range as servers do.</summary>
    public static FileAnswer Of(byte[] content, FileRequest request, string? etag = null)
    {
        (string, string)[] tag = etag is null ? [] : [("ETag", etag)];
        if (request.Header("Range") is not { } range || (request.Header("If-Range") is { } condition && condition != etag)) return new FileAnswer(200, content, tag);
        var from = int.Parse(range["bytes=".Length..^1], CultureInfo.InvariantCulture);
        return from >= content.Length ? new FileAnswer(416, []) : new FileAnswer(206, content[from..], [("Content-Range", $"bytes {from}-{content.Length - 1}/{content.Length}"), .. tag]);
    }
}

/// <summary>A web server on a loopback port that does what a test says, wrongly if need be.</summary>
internal sealed class FileServer : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly List<FileRequest> _requests = [];
    private readonly Func<FileRequest, FileAnswer> _answer;

    public FileServer(Func<FileRequest, FileAnswer> answer)
    {
        _answer = answer;
        _listener.Start();
        _ = AcceptAsync();
    }

    public string Url => $"http://127.0.0.1:{((IPEndPoint)_listener.LocalEndpoint).Port}";

    public IReadOnlyList<FileRequest> Requests
    {
        get { lock (_requests) return [.. _requests]; }
    }

    public void Dispose() => _listener.Stop();

    private async Task AcceptAsync()
    {
        while (true)
        {
            try
            {
                var socket = await _listener.AcceptSocketAsync();
                _ = Task.Run(() => AnswerAsync(socket));
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException or InvalidOperationException)
            {
                return;
            }
        }
    }

    private async Task AnswerAsync(Socket socket)
    {
        try
        {
            await using var stream = new NetworkStream(socket, ownsSocket: true);
            using var reader = new StreamReader(stream, Encoding.Latin1, leaveOpen: true);
            if (await reader.ReadLineAsync() is not { } line) return;
            var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
            while (await reader.ReadLineAsync() is { Length: > 0 } header) headers[header.Split(": ")[0]] = header[(header.IndexOf(": ", StringComparison.Ordinal) + 2)..];
            var request = new FileRequest(line.Split(' ')[1], headers);
            FileAnswer answer;
            lock (_requests)
            {
                _requests.Add(request);
                answer = _answer(request);
            }
            var head = new StringBuilder($"HTTP/1.1 {answer.Status} X\r\nConnection: close\r\n");
            foreach (var (name, value) in answer.Headers) head.Append(CultureInfo.InvariantCulture, $"{name}: {value}\r\n");
            // A negative length stands for none: the body ends with the connection.
            if ((answer.AnnouncedLength ?? answer.Body.Length) is >= 0 and var length) head.Append(CultureInfo.InvariantCulture, $"Content-Length: {length}\r\n");
            await stream.WriteAsync(Encoding.Latin1.GetBytes(head.Append("\r\n").ToString()));
            await stream.WriteAsync(answer.Body.AsMemory(0, Math.Min(answer.CutAfter ?? int.MaxValue, answer.Body.Length)));
        }
        catch (IOException)
        {
            // The client has gone.
        }
    }
}
