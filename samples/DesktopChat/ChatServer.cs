using System.Net;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace DesktopChat;

/// <summary>
/// The page and what it asks for, at a loopback port that the system chooses. Every path begins with a random token. Addresses that are handed out hold a ticket instead, which is exchanged for the token once: what
/// other users of the machine may read in the list of processes is void by then.
/// </summary>
internal sealed class ChatServer : IAsyncDisposable
{
    // A reload disconnects the page and connects it again.
    private static readonly TimeSpan s_reload = TimeSpan.FromSeconds(5);
    private static readonly Dictionary<string, (string File, string Type)> s_pages = new(StringComparer.Ordinal)
    {
        ["/"] = ("index.html", "text/html"), ["/chat.css"] = ("chat.css", "text/css"), ["/chat.js"] = ("chat.js", "text/javascript"),
    };

    private readonly ChatModel _model;
    private readonly WebApplication _app;
    private readonly string _token = NewToken();
    private readonly TaskCompletionSource _opened = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _closed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();
    private string? _ticket;
    private string _authority = "";
    private int _pages;
    private int _connections;
    private TimeSpan _patience = s_reload;

    private ChatServer(ChatModel model)
    {
        _model = model;
        var builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory });
        builder.WebHost.UseKestrelCore().ConfigureKestrel(static kestrel =>
        {
            kestrel.Listen(IPAddress.Loopback, 0);
            kestrel.AddServerHeader = false;
        });
        builder.Services.AddRoutingCore();
        builder.Services.Configure<HostOptions>(static host => host.ShutdownTimeout = TimeSpan.FromSeconds(1));
        _app = builder.Build();
        _app.Use(GuardAsync);
        _app.UseRouting();
        foreach (var path in s_pages.Keys) _app.MapGet(path, PageAsync);
        _app.MapGet("/status", (CancellationToken gone) => TypedResults.ServerSentEvents(StatusAsync(gone)));
        _app.MapPost("/load", (LoadRequest request) => model.Load(request.Path, request.Think));
        _app.MapPost("/stop-loading", model.StopLoading);
        _app.MapGet("/folders", Folders);
        _app.MapPost("/count", IResult (CountRequest request) => model.Loaded?.Tokenizer is { } tokenizer ? TypedResults.Ok(tokenizer.CountTokens(request.Text)) : TypedResults.NoContent());
        _app.MapPost("/answer", IResult (Message[] messages, CancellationToken gone) =>
            model.Loaded is { } loaded ? TypedResults.ServerSentEvents(AnswerStream.Run(loaded, messages, gone)) : TypedResults.Text("The model is not loaded.", statusCode: StatusCodes.Status409Conflict));
    }

    /// <summary>Completes when the page has been shown.</summary>
    public Task Opened => _opened.Task;

    /// <summary>Completes when the page was shown and is no more.</summary>
    public Task Closed => _closed.Task;

    public static async Task<ChatServer> StartAsync(ChatModel model)
    {
        var server = new ChatServer(model);
        await server._app.StartAsync();
        server._authority = new Uri(server._app.Urls.Single()).Authority;
        return server;
    }

    /// <summary>An address that shows the page once; the one before it is void.</summary>
    public string NewAddress()
    {
        _ticket = NewToken();
        return $"http://{_authority}/{_ticket}";
    }

    /// <summary>A page that disconnects is closed: nothing is left that could show it again.</summary>
    public void DoNotWaitForReload()
    {
        lock (_lock)
        {
            _patience = TimeSpan.Zero;
            if (_pages == 0) _closed.TrySetResult();
        }
    }

    public ValueTask DisposeAsync() => _app.DisposeAsync();

    private static string NewToken() => Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(24));

    private Task GuardAsync(HttpContext context, RequestDelegate next)
    {
        var request = context.Request;
        var headers = context.Response.Headers;
        headers.CacheControl = "no-store";
        headers["Referrer-Policy"] = "no-referrer";
        headers.XContentTypeOptions = "nosniff";
        // Pages of other sites reach this port by its number or by a name of their own. Browsers say where a request comes from.
        var site = request.Headers["Sec-Fetch-Site"].ToString();
        if (request.Host.Value != _authority || request.Headers.Origin.ToString() is not "" and var origin && origin != $"http://{_authority}" || site is not ("" or "none" or "same-origin")) return RefuseAsync(context);
        var path = request.Path.Value ?? "/";
        var end = path.IndexOf('/', 1);
        var key = path[1..(end < 0 ? path.Length : end)];
        if (_ticket is { } ticket && Same(key, ticket) && Interlocked.CompareExchange(ref _ticket, null, ticket) == ticket)
        {
            context.Response.Redirect($"/{_token}/");
            return Task.CompletedTask;
        }
        if (end < 0 || !Same(key, _token)) return RefuseAsync(context);
        (request.PathBase, request.Path) = (path[..end], path[end..]);
        return next(context);
    }

    private static bool Same(string key, string secret) => CryptographicOperations.FixedTimeEquals(Encoding.UTF8.GetBytes(key), Encoding.UTF8.GetBytes(secret));

    private static Task RefuseAsync(HttpContext context)
    {
        context.Response.StatusCode = StatusCodes.Status403Forbidden;
        return context.Response.WriteAsync("This address belongs to another window, or was used already.");
    }

    private static async Task PageAsync(HttpContext context)
    {
        var (file, type) = s_pages[context.Request.Path];
        context.Response.ContentType = $"{type}; charset=utf-8";
        // Whatever an answer may hold, the page runs no script but its own and talks to this program only.
        context.Response.Headers.ContentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        await using var content = Assembly.GetExecutingAssembly().GetManifestResourceStream($"DesktopChat.Page.{file}")!;
        await content.CopyToAsync(context.Response.Body, context.RequestAborted);
    }

    private static IResult Folders(string path)
    {
        try
        {
            return TypedResults.Ok(ModelFolder.List(path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return TypedResults.Text(e.Message, statusCode: StatusCodes.Status404NotFound);
        }
    }

    /// <summary>The model's state, again and again for as long as the page is shown: its end is how a closed window is noticed.</summary>
    private async IAsyncEnumerable<ModelStatus> StatusAsync([EnumeratorCancellation] CancellationToken gone)
    {
        lock (_lock) (_pages, _connections) = (_pages + 1, _connections + 1);
        _opened.TrySetResult();
        try
        {
            while (!gone.IsCancellationRequested && !_app.Lifetime.ApplicationStopping.IsCancellationRequested)
            {
                var status = _model.Status;
                yield return status;
                await Task.Delay(status.State == "loading" ? 100 : 1000, gone).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
        finally
        {
            _ = LeaveAsync();
        }
    }

    private async Task LeaveAsync()
    {
        int connections;
        TimeSpan patience;
        lock (_lock) (_pages, connections, patience) = (_pages - 1, _connections, _patience);
        await Task.Delay(patience);
        lock (_lock)
        {
            if (_pages == 0 && _connections == connections) _closed.TrySetResult();
        }
    }

    private sealed record LoadRequest(string Path, bool Think);

    private sealed record CountRequest(string Text);
}
