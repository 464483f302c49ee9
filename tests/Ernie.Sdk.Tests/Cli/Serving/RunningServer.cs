using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using Ernie.Cli.Serving;
using Microsoft.Extensions.Logging.Abstractions;

namespace Ernie.Sdk.Tests.Cli.Serving;

/// <summary>The tiny model in its thinking template over real HTTP, at a port of its own.</summary>
internal sealed class RunningServer : IAsyncDisposable
{
    private readonly ErnieServer _server;
    private bool _isStopped;

    private RunningServer(ErnieModel model, ErnieServer server)
    {
        (Model, _server) = (model, server);
        Http = new HttpClient { BaseAddress = new Uri(server.Urls.Single()) };
    }

    public ErnieModel Model { get; }
    public HttpClient Http { get; }

    public static async Task<RunningServer> StartAsync(string? apiKey = null, Action<ErnieModelOptions>? configure = null)
    {
        var model = await TinyModel.LoadAsync(options =>
        {
            options.ChatTemplate = ErnieChatTemplate.Thinking;
            configure?.Invoke(options);
        });
        return new RunningServer(model, await ErnieServer.StartAsync(model, ["http://127.0.0.1:0"], apiKey, NullLoggerFactory.Instance, TestContext.Current.CancellationToken));
    }

    /// <summary>Posts JSON as it stands and reads status and JSON.</summary>
    public Task<(int Status, JsonElement Body)> PostAsync(string path, string json) => PostAsync(path, Encoding.UTF8.GetBytes(json));

    /// <summary>Likewise, whatever the bytes are.</summary>
    public async Task<(int Status, JsonElement Body)> PostAsync(string path, byte[] json)
    {
        using var content = new ByteArrayContent(json) { Headers = { ContentType = new MediaTypeHeaderValue("application/json") } };
        using var response = await Http.PostAsync(new Uri(path, UriKind.Relative), content, TestContext.Current.CancellationToken);
        return ((int)response.StatusCode, await response.Content.ReadFromJsonAsync<JsonElement>(TestContext.Current.CancellationToken));
    }

    /// <summary>The events of a stream, the last one <c>[DONE]</c>.</summary>
    public async Task<List<string>> StreamAsync(string path, string json)
    {
        using var content = new StringContent(json, Encoding.UTF8, "application/json");
        using var response = await Http.PostAsync(new Uri(path, UriKind.Relative), content, TestContext.Current.CancellationToken);
        var text = await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
        Assert.True(response.IsSuccessStatusCode, text);
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType?.MediaType);
        return [.. text.Split("\n\n", StringSplitOptions.RemoveEmptyEntries).Select(static e => { Assert.StartsWith("data: ", e, StringComparison.Ordinal); return e[6..]; })];
    }

    /// <summary>Ends the server under its clients.</summary>
    public async Task StopAsync()
    {
        if (_isStopped) return;
        _isStopped = true;
        await _server.DisposeAsync();
    }

    public async ValueTask DisposeAsync()
    {
        Http.Dispose();
        await StopAsync();
        await Model.DisposeAsync();
    }
}
