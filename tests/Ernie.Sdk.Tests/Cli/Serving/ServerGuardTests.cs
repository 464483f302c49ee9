using System.Net;
using System.Text;
using System.Text.Json;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Cli.Serving;

/// <summary>What must not bring a server down, or leave a client without a word.</summary>
public sealed class ServerGuardTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task ManyPrompts_AreComputedAFewAtATime_AndDoNotFillTheQueueThemselves()
    {
        await using var server = await RunningServer.StartAsync(configure: static options => (options.MaxConcurrentRequests, options.MaxQueuedRequests) = (2, 2));
        var prompts = Enumerable.Range(0, 40).Select(static i => $"The number {i}").ToArray();
        var (status, answer) = await server.PostAsync("v1/completions", JsonSerializer.Serialize(new { prompt = prompts, max_tokens = 2, temperature = 0 }));
        Assert.True(status == 200, answer.GetRawText());
        var together = answer.GetProperty("choices").EnumerateArray().Select(static choice => choice.GetProperty("text").GetString()).ToArray();
        Assert.Equal(prompts.Length, together.Length);
        foreach (var i in (int[])[0, 17, 39])
        {
            (_, answer) = await server.PostAsync("v1/completions", JsonSerializer.Serialize(new { prompt = prompts[i], max_tokens = 2, temperature = 0 }));
            Assert.Equal(answer.GetProperty("choices")[0].GetProperty("text").GetString(), together[i]);
        }
        Assert.Equal(0, server.Model.WaitingRequests);

        // The first that fails ends the request with its own reason.
        (status, answer) = await server.PostAsync("v1/completions", JsonSerializer.Serialize(new { prompt = (string[])["", .. prompts], max_tokens = 2 }));
        Assert.Equal((400, "prompt"), (status, answer.GetProperty("error").GetProperty("param").GetString()));
    }

    [Theory]
    [InlineData("\"a\"")]
    [InlineData("[1]")]
    public async Task TooManyPrompts_AreRefusedWithTheLimit(string prompt)
    {
        await using var server = await RunningServer.StartAsync();
        var (status, answer) = await server.PostAsync("v1/completions", $$"""{"prompt": [{{string.Join(',', Enumerable.Repeat(prompt, 2049))}}], "max_tokens": 1}""");
        Assert.Equal((400, "prompt"), (status, answer.GetProperty("error").GetProperty("param").GetString()));
        Assert.Contains("2048", answer.GetProperty("error").GetProperty("message").GetString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "§"}]}""", "messages[0].content")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": [{"type": "text", "text": "§"}]}]}""", "messages[0].content[0].text")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "§", "content": "x"}]}""", "messages[0].role")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "x", "name": "§"}]}""", "messages[0].name")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "x"}], "stop": ["a", "§"]}""", "stop[1]")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"§": 1}}""", "logit_bias")]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "pattern": "§"}}}}""", "response_format.json_schema.schema.pattern")]
    [InlineData("v1/chat/completions", """{"§": 1}""", null)]
    [InlineData("v1/completions", """{"prompt": ["a", "§"]}""", "prompt[1]")]
    [InlineData("tokenize", """{"prompt": "§"}""", "prompt")]
    public async Task WhatIsNoUnicode_IsTheClientsFault(string path, string json, string? field)
    {
        await using var server = await RunningServer.StartAsync();
        foreach (var text in (byte[][])[@"\ud800"u8.ToArray(), @"a\uDC00b"u8.ToArray(), [0xff], [0xc3]])
        {
            var place = json.IndexOf('§', StringComparison.Ordinal);
            var (status, answer) = await server.PostAsync(path, [.. Encoding.ASCII.GetBytes(json[..place]), .. text, .. Encoding.ASCII.GetBytes(json[(place + 1)..])]);
            Assert.True(status == 400, answer.GetRawText());
            Assert.Equal(field, answer.GetProperty("error").GetProperty("param").GetString());
        }
    }

    [Fact]
    public async Task ArgumentsOfACall_AreUnicodeToo_AndWholePairsAreTaken()
    {
        await using var server = await RunningServer.StartAsync();
        var (status, answer) = await PostAsync("""{\"a\": \"\\ud800\"}""");
        Assert.True(status == 400, answer.GetRawText());
        Assert.Equal("messages[1].tool_calls[0].function.arguments", answer.GetProperty("error").GetProperty("param").GetString());
        (status, answer) = await PostAsync("""{\"a\": \"\\ud83d\\ude00\"}""");
        Assert.True(status == 200, answer.GetRawText());

        Task<(int, JsonElement)> PostAsync(string arguments) => server.PostAsync("v1/chat/completions", $$$"""
            {"messages": [{"role": "user", "content": "\ud83d\ude00"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{{{arguments}}}"}}]},
              {"role": "tool", "tool_call_id": "1", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1}
            """);
    }

    [Fact]
    public async Task AMessageThatQuotesAPair_KeepsItWhole()
    {
        await using var server = await RunningServer.StartAsync();
        // The quote ends after 60 characters, the first of which is the quotation mark.
        var (status, answer) = await server.PostAsync("v1/chat/completions", $$"""{"messages": "{{new string('x', 58)}}😀😀"}""");
        Assert.Equal((400, "messages"), (status, answer.GetProperty("error").GetProperty("param").GetString()));
        Assert.EndsWith("xxx….", answer.GetProperty("error").GetProperty("message").GetString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": []}]}""", "messages[1].content")]
    [InlineData("""{"messages": [{"role": "user", "content": []}]}""", "messages[0].content")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": ""}}]}""", "tools[1].function.name")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": ""}}}""", "tool_choice.function.name")]
    public async Task WhatIsEmpty_IsNamed(string json, string field)
    {
        await using var server = await RunningServer.StartAsync();
        var (status, answer) = await server.PostAsync("v1/chat/completions", json);
        Assert.Equal((400, field), (status, answer.GetProperty("error").GetProperty("param").GetString()));
        Assert.Contains(field, answer.GetProperty("error").GetProperty("message").GetString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/CHAT.CSS")]
    [InlineData("/chat.css/")]
    [InlineData("/Markdown.js")]
    public async Task ThePage_IsThere_HoweverItIsSpelt(string path)
    {
        await using var server = await RunningServer.StartAsync();
        using var response = await server.Http.GetAsync(new Uri(path, UriKind.Relative), Token);
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        Assert.NotEqual("", await response.Content.ReadAsStringAsync(Token));
    }

    [Theory]
    [InlineData("v1/chat/completions", """{"messages": [{"role": "user", "content": "Thank you"}], "temperature": 0, "max_tokens": 120, "stream": true}""")]
    [InlineData("v1/completions", """{"prompt": "Thank you", "temperature": 0, "max_tokens": 120, "logit_bias": {"2": -100}, "stream": true}""")]
    public async Task AServerThatStops_SaysSoInItsStreams(string path, string json)
    {
        var kernels = KernelRegistry.Choose();
        // Slow enough to be under way when the server ends.
        await using var server = await RunningServer.StartAsync(configure: options => options.Kernels = new HookedKernels(kernels, static _ => Thread.Sleep(10)));
        using var request = new HttpRequestMessage(HttpMethod.Post, path) { Content = new StringContent(json, Encoding.UTF8, "application/json") };
        using var response = await server.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Token);
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        using var reader = new StreamReader(await response.Content.ReadAsStreamAsync(Token));
        Assert.StartsWith("data: ", await reader.ReadLineAsync(Token), StringComparison.Ordinal);
        await server.StopAsync();
        var events = (await reader.ReadToEndAsync(Token)).Split("\n\n", StringSplitOptions.RemoveEmptyEntries);
        Assert.Contains("The server is stopping.", events[^1], StringComparison.Ordinal);
        Assert.DoesNotContain(events, static e => e.Contains("[DONE]", StringComparison.Ordinal));
    }
}
