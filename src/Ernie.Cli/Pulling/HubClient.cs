using System.Net;
using System.Net.Http.Headers;

namespace Ernie.Cli.Pulling;

/// <summary>Requests to one server. Redirects are followed, but the token stays with the server that it is for.</summary>
internal sealed class HubClient : IDisposable
{
    private const int MostRedirects = 10;
    /// <summary>A listing of 100,000 files has about 20 MB.</summary>
    private const int MostJson = 64 << 20;
    private readonly HttpClient _http;
    private readonly Uri _origin;
    private readonly string? _token;
    private readonly string _tokenHint;

    /// <param name="origin">The server that gets the token.</param>
    /// <param name="token">Access token, or null.</param>
    /// <param name="tokenHint">What helps against a refusal.</param>
    public HubClient(Uri origin, string? token, string tokenHint)
    {
        if (token is not null && origin.Scheme != Uri.UriSchemeHttps && !origin.IsLoopback) throw new ArgumentException($"A token is not sent over plain http to {origin.Host}. Use an https address.");
        (_origin, _token, _tokenHint) = (origin, token, tokenHint);
        var handler = new SocketsHttpHandler { AllowAutoRedirect = false, UseCookies = false, ConnectTimeout = TimeSpan.FromSeconds(30), PooledConnectionLifetime = TimeSpan.FromMinutes(10) };
        // Downloads take hours; whoever reads them watches that bytes come.
        _http = new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
        _http.DefaultRequestHeaders.UserAgent.Add(new ProductInfoHeaderValue("ernie", "1"));
        // A length and a range are those of the file, not of a compressed form.
        _http.DefaultRequestHeaders.AcceptEncoding.Add(new StringWithQualityHeaderValue("identity"));
    }

    /// <summary>Longest time without a byte.</summary>
    public static TimeSpan Idle { get; } = TimeSpan.FromSeconds(60);

    /// <summary>Reads a JSON answer whole.</summary>
    /// <returns>The bytes, and the address of the next page if there is one.</returns>
    public async Task<(byte[] Json, Uri? Next)> GetJsonAsync(Uri address, string what, CancellationToken cancellationToken)
    {
        using var opened = await OpenAsync(address, 0, null, what, cancellationToken).ConfigureAwait(false);
        using var json = new MemoryStream();
        var buffer = new byte[1 << 16];
        while (await ReadAsync(opened.Content, buffer, what, cancellationToken).ConfigureAwait(false) is > 0 and var count)
        {
            json.Write(buffer, 0, count);
            if (json.Length > MostJson) throw new InvalidDataException($"{what}: the answer has more than {MostJson} bytes.");
        }
        return (json.ToArray(), Next(((HttpResponseMessage)opened.Owner!).Headers, address));
    }

    /// <summary>Asks for the bytes at an address from an offset on.</summary>
    /// <exception cref="InterruptedTransferException">It may work the next time.</exception>
    public async Task<OpenedFile> OpenAsync(Uri address, long offset, string? validator, string what, CancellationToken cancellationToken)
    {
        string? sha256 = null;
        var at = address;
        for (var redirects = 0; ; redirects++)
        {
            var response = await SendAsync(at, offset, validator, what, cancellationToken).ConfigureAwait(false);
            try
            {
                // Hubs tell the hash and then send to another server, whose word on it would be worth less.
                if (IsOrigin(at)) sha256 ??= Sha256Of(response);
                if ((int)response.StatusCode is 301 or 302 or 303 or 307 or 308)
                {
                    at = Redirected(at, response, redirects, what);
                    response.Dispose();
                    continue;
                }
                return await ReadHeadersAsync(response, offset, sha256, what, cancellationToken).ConfigureAwait(false);
            }
            catch
            {
                response.Dispose();
                throw;
            }
        }
    }

    /// <summary>Reads some bytes; a connection that breaks or falls silent is an interruption.</summary>
    public static async Task<int> ReadAsync(Stream content, Memory<byte> buffer, string what, CancellationToken cancellationToken)
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(Idle);
        try
        {
            return await content.ReadAsync(buffer, timeout.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
        {
            throw new InterruptedTransferException($"{what}: nothing came for {Idle.TotalSeconds:F0} seconds.", inner: e);
        }
        catch (IOException e)
        {
            throw new InterruptedTransferException($"{what}: the connection broke ({e.Message.TrimEnd('.')}).", inner: e);
        }
    }

    public void Dispose() => _http.Dispose();

    private async Task<HttpResponseMessage> SendAsync(Uri address, long offset, string? validator, string what, CancellationToken cancellationToken)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, address);
        if (_token is not null && IsOrigin(address)) request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", _token);
        if (offset > 0)
        {
            request.Headers.Range = new RangeHeaderValue(offset, null);
            if (validator is not null) request.Headers.TryAddWithoutValidation("If-Range", validator);
        }
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(Idle);
        try
        {
            return await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, timeout.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
        {
            throw new InterruptedTransferException($"{what}: {address.Host} did not answer in {Idle.TotalSeconds:F0} seconds.", inner: e);
        }
        catch (HttpRequestException e) when (e.HttpRequestError is HttpRequestError.SecureConnectionError)
        {
            throw new IOException($"{what}: no secure connection to {address.Host}: {e.InnerException?.Message ?? e.Message}", e);
        }
        catch (Exception e) when (e is HttpRequestException or IOException)
        {
            throw new InterruptedTransferException($"{what}: {address.Host} cannot be reached ({e.Message.TrimEnd('.')}).", inner: e);
        }
    }

    private async Task<OpenedFile> ReadHeadersAsync(HttpResponseMessage response, long offset, string? sha256, string what, CancellationToken cancellationToken)
    {
        var (start, length) = response.StatusCode switch
        {
            HttpStatusCode.OK => (0, response.Content.Headers.ContentLength),
            HttpStatusCode.PartialContent when offset > 0 && response.Content.Headers.ContentRange is { From: { } from } range && from == offset => (offset, range.Length),
            // More is there than the file has, or a range that was not asked for: from the beginning, then.
            HttpStatusCode.RequestedRangeNotSatisfiable or HttpStatusCode.PartialContent when offset > 0 => (-1, null),
            _ => throw Problem(response, what),
        };
        if (start < 0)
        {
            var address = response.RequestMessage!.RequestUri!;
            response.Dispose();
            return await OpenAsync(address, 0, null, what, cancellationToken).ConfigureAwait(false) is var again && again.Sha256 is null ? again with { Sha256 = sha256 } : again;
        }
        return new OpenedFile(await response.Content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false), start, length, Validator(response), sha256, response);
    }

    /// <summary>What If-Range may be asked with: a strong ETag, or where there is none at all a date that is strong in the sense of RFC 9110, 8.8.2.2.</summary>
    /// <remarks>Times of files have seconds: one that had been written just before the answer could be written again in the same second. The minute is that of RFC 7232, which was more careful than its successor.</remarks>
    private static string? Validator(HttpResponseMessage response)
    {
        if (response.Headers.ETag is { } etag) return etag.IsWeak ? null : etag.Tag;
        return response.Content.Headers.LastModified is { } modified && response.Headers.Date is { } date && date - modified >= TimeSpan.FromMinutes(1) && response.Content.Headers.TryGetValues("Last-Modified", out var values)
            ? values.First() : null;
    }

    private Exception Problem(HttpResponseMessage response, string what)
    {
        var status = (int)response.StatusCode;
        var reason = response.Headers.TryGetValues("X-Error-Message", out var messages) ? $" ({string.Concat(messages.First().Where(static c => !char.IsControl(c)).Take(200)).TrimEnd('.')})" : "";
        return status switch
        {
            401 => new UnauthorizedAccessException($"{what}: the server wants to know who asks (401){reason}. The repository does not exist, or it is private or gated; {_tokenHint}."),
            403 => new UnauthorizedAccessException($"{what}: access is refused (403){reason}. Accept the repository's terms on its page, and {_tokenHint}."),
            404 or 410 => new FileNotFoundException($"{what}: not found ({status}){reason}. Check the name and --revision."),
            408 or 429 or 500 or 502 or 503 or 504 => new InterruptedTransferException($"{what}: the server is busy or out of order ({status}){reason}.", RetryAfter(response)),
            _ => new IOException($"{what}: unexpected answer {status}{reason} from {response.RequestMessage!.RequestUri!.Host}."),
        };
    }

    private static TimeSpan? RetryAfter(HttpResponseMessage response) => response.Headers.RetryAfter switch
    {
        { Delta: { } delta } => delta,
        { Date: { } date } => date - DateTimeOffset.UtcNow is var wait && wait > TimeSpan.Zero ? wait : TimeSpan.Zero,
        _ => null,
    };

    private static Uri Redirected(Uri from, HttpResponseMessage response, int redirects, string what)
    {
        if (redirects >= MostRedirects) throw new IOException($"{what}: more than {MostRedirects} redirects.");
        if (response.Headers.Location is not { } location) throw new IOException($"{what}: a redirect without an address from {from.Host}.");
        var to = new Uri(from, location);
        if (to.Scheme != Uri.UriSchemeHttps && (to.Scheme != Uri.UriSchemeHttp || from.Scheme == Uri.UriSchemeHttps))
            throw new IOException($"{what}: {from.Host} redirects to {to.Scheme}://{to.Host}, which is not secure.");
        return to;
    }

    private bool IsOrigin(Uri address) => address.Scheme == _origin.Scheme && address.Host == _origin.Host && address.Port == _origin.Port;

    private static string? Sha256Of(HttpResponseMessage response) =>
        response.Headers.TryGetValues("X-Linked-Etag", out var values) && values.First().Trim('"') is { Length: 64 } hash && hash.All(char.IsAsciiHexDigit) ? hash.ToLowerInvariant() : null;

    /// <summary>The address that a header <c>Link: &lt;…&gt;; rel="next"</c> gives.</summary>
    private Uri? Next(HttpResponseHeaders headers, Uri address)
    {
        if (!headers.TryGetValues("Link", out var links)) return null;
        foreach (var link in links.SelectMany(static l => l.Split(',')))
        {
            var (open, close) = (link.IndexOf('<', StringComparison.Ordinal), link.IndexOf('>', StringComparison.Ordinal));
            if (open >= 0 && close > open && link[close..].Contains("rel=\"next\"", StringComparison.Ordinal) && Uri.TryCreate(address, link[(open + 1)..close], out var next) && IsOrigin(next)) return next;
        }
        return null;
    }
}
