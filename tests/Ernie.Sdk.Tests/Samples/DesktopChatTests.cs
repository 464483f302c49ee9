using System.Net;
using System.Net.Http.Json;
using System.Net.ServerSentEvents;
using System.Text.Json;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample DesktopChat without a browser: who may reach it, and that it ends with its page. Tests/Ernie.Sdk.BrowserTests drive the page.</summary>
public sealed class DesktopChatTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task DesktopChat_AnswersItsPageOnly()
    {
        await using var program = RunningProgram.Start("DesktopChat.dll", "--browser", "none");
        var address = await AddressAsync(program);
        using var http = new HttpClient(new SocketsHttpHandler { AllowAutoRedirect = false });

        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(new Uri(address, "/")));
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(new Uri(address, "/status")));
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(new Uri(address, $"/{new string('0', 48)}/")));
        // A page of another site under a name that points here, a form or a script of it, and a link on it.
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(address, request => request.Headers.Host = $"evil.example:{address.Port}"));
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(address, request => request.Headers.Add("Origin", "https://evil.example")));
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(address, request => request.Headers.Add("Sec-Fetch-Site", "cross-site")));

        using var ticket = await http.GetAsync(address, Token);
        Assert.Equal(HttpStatusCode.Redirect, ticket.StatusCode);
        var page = new Uri(address, ticket.Headers.Location!);
        Assert.Equal(HttpStatusCode.OK, await StatusAsync(page));
        Assert.Equal(HttpStatusCode.OK, await StatusAsync(new Uri(page, "chat.js")));
        // The address is spent: who has read it from the list of processes comes too late.
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(address));
        Assert.Equal(HttpStatusCode.Forbidden, await StatusAsync(new Uri(page, "folders?path=/"), request => request.Headers.Add("Origin", "https://evil.example")));

        async Task<HttpStatusCode> StatusAsync(Uri url, Action<HttpRequestMessage>? change = null)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, url);
            change?.Invoke(request);
            using var response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Token);
            return response.StatusCode;
        }
    }

    [Fact]
    public async Task DesktopChat_LoadsAnswersAndEndsWithItsPage()
    {
        await using var program = RunningProgram.Start("DesktopChat.dll", "--browser", "none");
        using var http = new HttpClient();
        using var opened = await http.GetAsync(await AddressAsync(program), Token);
        var page = opened.RequestMessage!.RequestUri!;
        using (var shown = await http.GetAsync(new Uri(page, "status"), HttpCompletionOption.ResponseHeadersRead, Token))
        {
            var statuses = SseParser.Create(await shown.Content.ReadAsStreamAsync(Token), static (_, data) => JsonSerializer.Deserialize<JsonElement>(data)).EnumerateAsync(Token);
            var states = new List<string?>();
            await foreach (var status in statuses)
            {
                states.Add(status.Data.GetProperty("state").GetString());
                Assert.True(status.Data.GetProperty("memory").GetInt64() > 1 << 20);
                if (states[^1] != "loading") break;
            }
            Assert.Equal("ready", states[^1]);

            using var answer = await http.PostAsJsonAsync(new Uri(page, "answer"), new[] { new { role = "user", text = "Who are you?" } }, Token);
            var events = new List<JsonElement>();
            await foreach (var item in SseParser.Create(await answer.Content.ReadAsStreamAsync(Token), static (_, data) => JsonSerializer.Deserialize<JsonElement>(data)).EnumerateAsync(Token)) events.Add(item.Data);
            Assert.StartsWith("I am a tiny demo model", string.Concat(events.Where(static e => e.GetProperty("type").GetString() == "text").Select(static e => e.GetProperty("text").GetString())), StringComparison.Ordinal);
            Assert.Equal("done", events[^1].GetProperty("type").GetString());
        }
        await program.EndAsync();
        Assert.Equal(0, program.ExitCode);
    }

    private static async Task<Uri> AddressAsync(RunningProgram program)
    {
        var line = await program.LineAsync(static line => line.StartsWith("Open http://127.0.0.1:", StringComparison.Ordinal));
        return new Uri(line.Split(' ')[1]);
    }

    [Fact]
    public async Task DesktopChat_WithoutADisplay_SaysSo()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Elsewhere a display is not a variable of the environment.");
        Assert.SkipWhen(Environment.GetEnvironmentVariable("DISPLAY") is { Length: > 0 } || Environment.GetEnvironmentVariable("WAYLAND_DISPLAY") is { Length: > 0 }, "There is a display, and a window would open on it.");
        await using var program = RunningProgram.Start("DesktopChat.dll");
        await program.LineAsync(static line => line.StartsWith("There is no display", StringComparison.Ordinal) && line.Contains("Open http://127.0.0.1:", StringComparison.Ordinal));
    }

    [Fact]
    public async Task DesktopChat_WithoutABrowser_PrintsAnAddress()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only on Linux do the programs that open a browser come from the path.");
        await using var program = RunningProgram.StartAlone("DesktopChat.dll", "--browser", "/nowhere/browser");
        await program.LineAsync(static line => line.Contains("/nowhere/browser does not start", StringComparison.Ordinal));
        await program.LineAsync(static line => line.StartsWith("Open http://127.0.0.1:", StringComparison.Ordinal));
    }

    [Fact]
    public async Task DesktopChat_UnknownOption_IsWrongUsage()
    {
        await using var program = RunningProgram.Start("DesktopChat.dll", "--colour");
        await program.EndAsync();
        Assert.Equal(2, program.ExitCode);
    }
}
