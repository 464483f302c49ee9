using System.Net;
using System.Net.Http.Json;
using System.Net.ServerSentEvents;
using System.Text.Json;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample WebApi as a process of its own, over real HTTP.</summary>
public sealed class WebApiTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task WebApi_Streams_TellsItsHealth_AndExportsTelemetry()
    {
        await using var program = RunningProgram.Start("WebApi.dll", "--urls", "http://127.0.0.1:0");
        var listening = await program.LineAsync(static line => line.Contains("Now listening on: ", StringComparison.Ordinal));
        using var http = new HttpClient { BaseAddress = new Uri(listening[(listening.IndexOf("http", StringComparison.Ordinal))..].Trim()) };

        // Whatever the model's load needs: a request waits for it.
        var events = await ChatAsync(http, """{"messages": [{"role": "user", "text": "What is the capital of Norway?"}]}""");
        Assert.Equal("The capital of Norway is Oslo.", string.Concat(events.Where(static e => e.EventType == "text").Select(static e => e.Data.GetProperty("text").GetString())));
        Assert.True(events.Count(static e => e.EventType == "text") > 3, "The answer came in one piece.");
        var (type, done) = (events[^1].EventType, events[^1].Data);
        Assert.Equal(("done", "stop", 16, 12), (type, done.GetProperty("finish").GetString(), done.GetProperty("inputTokenCount").GetInt32(), done.GetProperty("outputTokenCount").GetInt32()));

        Assert.Contains("POST /chat", Assert.Single((await http.GetStringAsync(new Uri("/", UriKind.Relative), Token)).Split('\n', StringSplitOptions.RemoveEmptyEntries)), StringComparison.Ordinal);
        Assert.Equal("Healthy", await http.GetStringAsync(new Uri("health", UriKind.Relative), Token));
        var whole = await http.GetFromJsonAsync<JsonElement>(new Uri("ask?question=What%20is%207%20plus%208%3F", UriKind.Relative), Token);
        Assert.Contains("15", whole.GetProperty("text").GetString(), StringComparison.Ordinal);

        events = await ChatAsync(http, """{"messages": [{"role": "user", "content": "What is the capital of France?"}]}""");
        Assert.Equal("The capital of France is Paris.", string.Concat(events.Where(static e => e.EventType == "text").Select(static e => e.Data.GetProperty("text").GetString())));

        await program.LineAsync(static line => line.StartsWith("Activity.DisplayName:", StringComparison.Ordinal) && line.Contains("ernie-tiny-moe", StringComparison.Ordinal));
        // Metrics are printed every ten seconds.
        await program.LineAsync(static line => line.Contains("gen_ai.server.time_to_first_token", StringComparison.Ordinal));
        // The three requests above, and not the model's own warm-up.
        Assert.Equal(3, program.Output.Split('\n').Count(static line => line.StartsWith("Activity.DisplayName:", StringComparison.Ordinal) && line.Contains("text_completion", StringComparison.Ordinal)));
        Assert.DoesNotContain("Norway", program.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("Oslo", program.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"messages": []}""", "no messages")]
    [InlineData("""{"messages": [{"role": "king", "text": "Hello"}]}""", "king")]
    [InlineData("""{"role": "user", "content": "Hello"}""", "role")]
    [InlineData("{}", "has no \u0027messages\u0027")]
    [InlineData("""{"messages": [{"role": "user", "text": "Hello"}, {"role": "user"}]}""", "Message 1 has no \u0027text\u0027")]
    [InlineData("""{"messages": [{"text": "Hello"}]}""", "Message 0 has no \u0027role\u0027")]
    [InlineData("""{"mess""", "The body cannot be read")]
    [InlineData("""{"messages": [{"role": "user", "text": "Hello"}], "temperature": 0}""", "temperature")]
    [InlineData("""{"messages": [{"role": "user", "text": "Hello", "name": "x"}]}""", "name")]
    public async Task WebApi_RefusesWhatIsWrongWithTheCause(string body, string cause)
    {
        await using var program = RunningProgram.Start("WebApi.dll", "--urls", "http://127.0.0.1:0");
        var listening = await program.LineAsync(static line => line.Contains("Now listening on: ", StringComparison.Ordinal));
        using var http = new HttpClient { BaseAddress = new Uri(listening[(listening.IndexOf("http", StringComparison.Ordinal))..].Trim()) };
        using var content = new StringContent(body, new System.Net.Http.Headers.MediaTypeHeaderValue("application/json"));
        using var response = await http.PostAsync(new Uri("chat", UriKind.Relative), content, Token);
        Assert.Equal((HttpStatusCode.BadRequest, "application/problem+json"), (response.StatusCode, response.Content.Headers.ContentType?.MediaType));
        var problem = await response.Content.ReadFromJsonAsync<JsonElement>(Token);
        Assert.Contains(cause, problem.GetProperty("detail").GetString(), StringComparison.Ordinal);
        using var ask = await http.GetAsync(new Uri("ask", UriKind.Relative), Token);
        Assert.Equal(HttpStatusCode.BadRequest, ask.StatusCode);
        Assert.Contains("question", (await ask.Content.ReadFromJsonAsync<JsonElement>(Token)).GetProperty("detail").GetString(), StringComparison.Ordinal);
    }

    private static async Task<List<SseItem<JsonElement>>> ChatAsync(HttpClient http, string body)
    {
        using var content = new StringContent(body, new System.Net.Http.Headers.MediaTypeHeaderValue("application/json"));
        using var response = await http.PostAsync(new Uri("chat", UriKind.Relative), content, Token);
        Assert.Equal((HttpStatusCode.OK, "text/event-stream"), (response.StatusCode, response.Content.Headers.ContentType?.MediaType));
        await using var stream = await response.Content.ReadAsStreamAsync(Token);
        var events = new List<SseItem<JsonElement>>();
        await foreach (var item in SseParser.Create(stream, static (_, data) => JsonSerializer.Deserialize<JsonElement>(data)).EnumerateAsync(Token)) events.Add(item);
        return events;
    }
}
