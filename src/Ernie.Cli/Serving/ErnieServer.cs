using System.Net;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Ernie.Sdk;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli.Serving;

/// <summary>A model over HTTP: OpenAI's API, a chat page, health and metrics. It does not own the model.</summary>
internal sealed class ErnieServer : IAsyncDisposable
{
    // A document of 131,072 tokens has less than a megabyte.
    private const long MaxRequestBytes = 64 << 20;
    private const int ClientClosedRequest = 499;
    private static readonly Dictionary<string, string> s_pages = new(StringComparer.OrdinalIgnoreCase) { ["/"] = "index.html", ["/chat.css"] = "chat.css", ["/chat.js"] = "chat.js", ["/markdown.js"] = "markdown.js" };

    private readonly ErnieModel _model;
    private readonly ErnieTokenizer _tokenizer;
    private readonly byte[]? _apiKey;
    private readonly ILogger _logger;
    private readonly PrometheusText _metrics = new();
    private readonly WebApplication _app;
    private readonly bool _isLocal;

    private ErnieServer(ErnieModel model, IReadOnlyList<string> urls, string? apiKey, ILoggerFactory loggers)
    {
        _model = model;
        _tokenizer = model.Tokenizer ?? throw new NotSupportedException($"{model.Path} has no tokenizer.model, which serving needs. Copy the checkpoint's tokenizer files there.");
        // The same length whatever is sent: comparing tells nothing about the key.
        _apiKey = apiKey is null ? null : SHA256.HashData(Encoding.UTF8.GetBytes(apiKey));
        _logger = loggers.CreateLogger("serve");
        _isLocal = urls.All(IsLoopback);
        _app = Build(urls, loggers);
    }

    /// <summary>Where it listens, with the ports that were chosen.</summary>
    public IReadOnlyList<string> Urls => [.. _app.Urls];

    /// <summary>Starts to listen.</summary>
    /// <param name="model">What answers. Disposed by the caller, after the server.</param>
    /// <param name="urls">Addresses; port 0 takes a free one.</param>
    /// <param name="apiKey">What clients must know; null for nothing.</param>
    /// <param name="loggers">The log. It gets no texts of prompts and answers.</param>
    /// <param name="cancellationToken">Stops starting.</param>
    /// <exception cref="IOException">An address is in use.</exception>
    public static async Task<ErnieServer> StartAsync(ErnieModel model, IReadOnlyList<string> urls, string? apiKey, ILoggerFactory loggers, CancellationToken cancellationToken)
    {
        var server = new ErnieServer(model, urls, apiKey, loggers);
        try
        {
            await server._app.StartAsync(cancellationToken).ConfigureAwait(false);
            return server;
        }
        catch
        {
            await server.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    public static bool IsLoopback(string url) => Uri.TryCreate(url, UriKind.Absolute, out var uri) && uri.IsLoopback;

    /// <summary>What clients hear of a fault of the server; the log has the rest.</summary>
    public static ApiException Unexpected() => new(StatusCodes.Status500InternalServerError, "The server failed; its log says more.");

    public async ValueTask DisposeAsync()
    {
        // Disposing alone would cut the connections; stopping tells the requests first.
        if (_app.Lifetime.ApplicationStarted.IsCancellationRequested) await _app.StopAsync(CancellationToken.None).ConfigureAwait(false);
        await _app.DisposeAsync().ConfigureAwait(false);
        _metrics.Dispose();
    }

    private WebApplication Build(IReadOnlyList<string> urls, ILoggerFactory loggers)
    {
        // Nothing of the folder or the environment that the command is run in changes it.
        var builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory });
        builder.WebHost.UseKestrelCore().ConfigureKestrel(static kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = MaxRequestBytes;
        }).UseUrls([.. urls]);
        builder.Services.AddRoutingCore();
        builder.Services.Replace(ServiceDescriptor.Singleton<ILoggerFactory>(new WithoutStartFailures(loggers)));
        builder.Services.Replace(ServiceDescriptor.Singleton<IHostLifetime>(new CallersLifetime()));
        builder.Services.Configure<HostOptions>(static host => host.ShutdownTimeout = TimeSpan.FromSeconds(5));
        var app = builder.Build();
        app.Use(GuardAsync);
        app.UseRouting();
        var chat = new ChatCompletions(_model);
        var text = new TextCompletions(_model, _tokenizer);
        Map("/v1/chat/completions", "POST", chat.HandleAsync);
        Map("/v1/completions", "POST", text.HandleAsync);
        Map("/v1/models", "GET", ModelsAsync);
        Map("/v1/models/{**id}", "GET", ModelAsync);
        Map("/tokenize", "POST", TokenizeAsync);
        Map("/health", "GET", HealthAsync);
        Map("/metrics", "GET", MetricsAsync);
        foreach (var (path, file) in s_pages) Map(path, "GET", context => PageAsync(context, file));
        return app;

        void Map(string path, string method, RequestDelegate handle) => app.MapMethods(path, method == "GET" ? ["GET", "HEAD"] : [method], handle);
    }

    /// <summary>Who may ask, and how whatever goes wrong is told.</summary>
    private async Task GuardAsync(HttpContext context, RequestDelegate next)
    {
        var stopping = _app.Lifetime.ApplicationStopping;
        using var ended = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
        var aborted = context.RequestAborted;
        context.RequestAborted = ended.Token;
        ApiException? error;
        try
        {
            Admit(context);
            await next(context).ConfigureAwait(false);
            error = context.Response.HasStarted || context.Response.ContentType is not null ? null : context.Response.StatusCode switch
            {
                StatusCodes.Status404NotFound => new ApiException(StatusCodes.Status404NotFound, $"There is nothing at {context.Request.Path}."),
                StatusCodes.Status405MethodNotAllowed => new ApiException(StatusCodes.Status405MethodNotAllowed, $"{context.Request.Path} takes {context.Response.Headers.Allow}, not {context.Request.Method}."),
                _ => null,
            };
        }
        catch (Exception) when (aborted.IsCancellationRequested)
        {
            // Nobody reads the answer any more; the status is for logs.
            if (!context.Response.HasStarted) context.Response.StatusCode = ClientClosedRequest;
            return;
        }
        catch (OperationCanceledException) when (stopping.IsCancellationRequested)
        {
            error = ApiException.Of(new ObjectDisposedException(nameof(ErnieServer)));
        }
#pragma warning disable CA1031 // The last stop: clients get an error that they can read, whatever went wrong.
        catch (Exception e)
#pragma warning restore CA1031
        {
            error = ApiException.Of(e, context.Request.Path == "/v1/completions" ? "prompt" : "messages");
            if (error is null) _logger.LogError(e, "A request failed.");
            error ??= Unexpected();
        }
        if (error is null) return;
        context.RequestAborted = aborted;
        if (!context.Response.HasStarted) await ApiJson.WriteErrorAsync(context, error).ConfigureAwait(false);
        // The status has gone out: the error is an event, and the missing [DONE] says that the answer is not whole.
        else if (ApiJson.HasBegunEvents(context)) await ApiJson.WriteEventAsync(context, json => ApiJson.WriteError(json, error)).ConfigureAwait(false);
    }

    private void Admit(HttpContext context)
    {
        // A page of another site may have its own name point to this machine; its requests carry that name.
        if (_isLocal && !IsLoopbackHost(context.Request.Host.Host))
            throw new ApiException(StatusCodes.Status403Forbidden, $"This server answers this machine only, under localhost or a loopback address; the request was for '{context.Request.Host.Host}'. --urls makes it listen elsewhere.");
        if (_apiKey is null || s_pages.ContainsKey(context.Request.Path) || context.Request.Path == "/health") return;
        const string Scheme = "Bearer ";
        var header = context.Request.Headers.Authorization.ToString();
        var key = header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase) ? header[Scheme.Length..].Trim() : "";
        if (!CryptographicOperations.FixedTimeEquals(SHA256.HashData(Encoding.UTF8.GetBytes(key)), _apiKey))
            throw new ApiException(StatusCodes.Status401Unauthorized, key.Length == 0 ? "This server wants an API key: send 'Authorization: Bearer KEY'." : "The API key is wrong.", code: "invalid_api_key");
    }

    private static bool IsLoopbackHost(string host) => host.Equals("localhost", StringComparison.OrdinalIgnoreCase) || (IPAddress.TryParse(host, out var address) && IPAddress.IsLoopback(address));

    private Task ModelsAsync(HttpContext context) => ApiJson.WriteAsync(context, json =>
    {
        json.WriteStartObject();
        json.WriteString("object", "list");
        json.WriteStartArray("data");
        WriteModel(json);
        json.WriteEndArray();
        json.WriteEndObject();
    });

    private Task ModelAsync(HttpContext context)
    {
        var id = context.Request.RouteValues["id"] as string;
        if (id != _model.ModelId) throw new ApiException(StatusCodes.Status404NotFound, $"There is no model '{id}' here; this server runs '{_model.ModelId}'.", "model", "model_not_found");
        return ApiJson.WriteAsync(context, WriteModel);
    }

    private void WriteModel(System.Text.Json.Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("id", _model.ModelId);
        json.WriteString("object", "model");
        json.WriteNumber("created", new DateTimeOffset(Directory.GetCreationTimeUtc(_model.Path)).ToUnixTimeSeconds());
        json.WriteString("owned_by", "ernie-sdk");
        json.WriteNumber("max_model_len", _model.ContextLength);
        json.WriteEndObject();
    }

    /// <summary>Ids of a text as it is ("prompt"), or of a conversation in the model's template ("messages").</summary>
    private async Task TokenizeAsync(HttpContext context)
    {
        var request = await RequestObject.ReadAsync(context).ConfigureAwait(false);
        ChatCompletionRequest.CheckModel(request, _model);
        IReadOnlyList<int> ids;
        if (request.Text("prompt") is { } prompt) ids = _tokenizer.EncodeToIds(prompt, allowSpecialTokens: false);
        else
        {
            if (request.Take("messages") is null) throw new ApiException(StatusCodes.Status400BadRequest, "'prompt' or 'messages' is missing.", "prompt", "missing_field");
            var client = (Sdk.Chat.ErnieChatClient)_model.AsChatClient();
            ids = client.Encode(client.Request(ChatCompletionRequest.ReadMessages(request), null));
        }
        request.End();
        await ApiJson.WriteAsync(context, json =>
        {
            json.WriteStartObject();
            json.WriteNumber("count", ids.Count);
            json.WriteNumber("max_model_len", _model.ContextLength);
            json.WriteStartArray("tokens");
            foreach (var id in ids) json.WriteNumberValue(id);
            json.WriteEndArray();
            json.WriteEndObject();
        }).ConfigureAwait(false);
    }

    private Task HealthAsync(HttpContext context) => ApiJson.WriteAsync(context, json =>
    {
        json.WriteStartObject();
        json.WriteString("status", "ok");
        json.WriteString("model", _model.ModelId);
        json.WriteNumber("waiting_requests", _model.WaitingRequests);
        json.WriteEndObject();
    });

    private async Task MetricsAsync(HttpContext context)
    {
        context.Response.ContentType = "text/plain; version=0.0.4; charset=utf-8";
        await context.Response.WriteAsync(_metrics.Write(), context.RequestAborted).ConfigureAwait(false);
    }

    private static async Task PageAsync(HttpContext context, string file)
    {
        context.Response.ContentType = Path.GetExtension(file) switch { ".css" => "text/css; charset=utf-8", ".js" => "text/javascript; charset=utf-8", _ => "text/html; charset=utf-8" };
        context.Response.Headers.CacheControl = "no-cache";
        context.Response.Headers.XContentTypeOptions = "nosniff";
        // Whatever an answer may hold, the page runs no script but its own and talks to this server only.
        context.Response.Headers.ContentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        using var content = Assembly.GetExecutingAssembly().GetManifestResourceStream($"Ernie.Cli.Serving.Page.{file}")!;
        await content.CopyToAsync(context.Response.Body, context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>The command handles signals; the host's own handling would take them away from it.</summary>
    private sealed class CallersLifetime : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
