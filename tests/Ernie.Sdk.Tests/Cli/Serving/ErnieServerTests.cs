using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Cli.Serving;

/// <summary>The server as a client sees it that sends what it likes.</summary>
public sealed class ErnieServerTests : IAsyncLifetime
{
    private const string Thanks = """ "messages": [{"role": "user", "content": "Thank you"}], "temperature": 0, "max_tokens": 120 """;
    private RunningServer _server = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _server = await RunningServer.StartAsync();

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    [Theory]
    [InlineData("""{"messages": []}""", "messages")]
    [InlineData("""{}""", "messages")]
    [InlineData("""{"messages": [{"role": "narrator", "content": "x"}]}""", "messages[0].role")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}""", "messages[1].content")]
    [InlineData("""{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}""", "messages[0].content[0].type")]
    [InlineData("""{"messages": [{"role": "tool", "content": "x"}]}""", "messages[0].tool_call_id")]
    [InlineData("""{"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]}]}""", "messages[0].tool_calls[0].function.arguments")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}""", "temperature")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "temperature": 3}""", "temperature")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "top_p": -1}""", "top_p")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}""", "max_tokens")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2}""", "max_tokens")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "stop": [1]}""", "stop")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "seed": 1.5}""", "seed")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "n": 2}""", "n")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": 5}""", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": ["5"]}""", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"cat": 1}}""", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"-1": 1}}""", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999": 1}}""", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": "much"}}""", "logit_bias.5")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": 101}}""", "logit_bias.5")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": null}}""", "logit_bias.5")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": "yes"}""", "logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": 3}""", "logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}""", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": false, "top_logprobs": 3}""", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 21}""", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": -1}""", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 1.5}""", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": true}}""", "stream_options")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "yaml"}}""", "response_format.type")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema"}}""", "response_format.json_schema")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"description": "x"}}]}""", "tools[0].function.name")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tool_choice": "maybe"}""", "tool_choice")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}""", "tool_choice")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}""", "tools[0].function.strict")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nothing"}}}}""", "response_format")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"long": {"type": "string", "minLength": 200}}, "required": ["long"]}}}, "max_tokens": 5}""", "max_completion_tokens")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "huge"}""", "reasoning_effort")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "temprature": 1}""", "temprature")]
    public async Task WhatIsWrong_IsNamed(string json, string field)
    {
        foreach (var body in new[] { json, json.Contains("stream", StringComparison.Ordinal) ? json : json[..^1] + (json.Length > 2 ? ", " : "") + "\"stream\": true}" })
        {
            var (status, answer) = await _server.PostAsync("v1/chat/completions", body);
            Assert.Equal(400, status);
            var error = answer.GetProperty("error");
            Assert.Equal(field, error.GetProperty("param").GetString());
            Assert.Equal("invalid_request_error", error.GetProperty("type").GetString());
            Assert.NotEqual("", error.GetProperty("message").GetString());
        }
    }

    [Fact]
    public async Task PortInUse_IsToldWithAFreeOne()
    {
        var run = await CommandRun.Async("serve", await TinyModel.ExportedAsync(), "--urls", _server.Http.BaseAddress!.ToString().TrimEnd('/'));
        Assert.Equal(Ernie.Cli.ExitCode.BadInput, run.ExitCode);
        Assert.Contains("--urls http://127.0.0.1:0", run.Error, StringComparison.Ordinal);
        Assert.Equal(1, run.Error.Count(static c => c == '\n'));
    }

    [Fact]
    public async Task AnAddressOfAnotherMachine_IsOneLineWithItsCure()
    {
        // Reserved for documentation (RFC 5737): nobody has it.
        var run = await CommandRun.Async("serve", await TinyModel.ExportedAsync(), "--urls", "http://192.0.2.1:8000", "--api-key", "x");
        Assert.Equal(Ernie.Cli.ExitCode.BadInput, run.ExitCode);
        Assert.StartsWith("ernie: The server cannot listen at http://192.0.2.1:8000: ", run.Error, StringComparison.Ordinal);
        Assert.Contains("--urls", run.Error, StringComparison.Ordinal);
        Assert.Equal(1, run.Error.Count(static c => c == '\n'));
    }

    [Fact]
    public async Task ABodyThatIsNoObject_IsNoFieldsFault()
    {
        var (status, answer) = await _server.PostAsync("v1/chat/completions", "[]");
        Assert.Equal((400, JsonValueKind.Null), (status, answer.GetProperty("error").GetProperty("param").ValueKind));
        Assert.Equal("The body must be an object; it is [].", answer.GetProperty("error").GetProperty("message").GetString());
    }

    [Fact]
    public async Task WhatTheLibraryRefuses_IsSaidInTheRequestsWords()
    {
        await using var standard = await RunningServer.StartAsync(configure: static options => options.ChatTemplate = ErnieChatTemplate.Standard);
        const string Message = """ "messages": [{"role": "user", "content": "x"}] """;
        foreach (var (more, cure) in new[] { ("""{"tools": [{"type": "function", "function": {"name": "f"}}]}""", "--template thinking"), ("""{"reasoning_effort": "high"}""", "--template thinking"), ("""{"tool_choice": "required"}""", "'tools' is empty") })
        {
            var (status, answer) = await standard.PostAsync("v1/chat/completions", $"{{{Message}, {more[1..]}");
            var message = answer.GetProperty("error").GetProperty("message").GetString()!;
            Assert.Equal(400, status);
            Assert.Contains(cure, message, StringComparison.Ordinal);
            Assert.DoesNotContain("ChatOptions", message, StringComparison.Ordinal);
            Assert.DoesNotContain("ToolMode", message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("""{"prompt": "x", "logit_bias": true}""", "logit_bias")]
    [InlineData("""{"prompt": "x", "logit_bias": {"x": 1}}""", "logit_bias")]
    [InlineData("""{"prompt": "x", "logit_bias": {"5": -100.5}}""", "logit_bias.5")]
    [InlineData("""{"prompt": "x", "logprobs": true}""", "logprobs")]
    [InlineData("""{"prompt": "x", "logprobs": -1}""", "logprobs")]
    [InlineData("""{"prompt": "x", "logprobs": 21}""", "logprobs")]
    [InlineData("""{"prompt": "x", "logprobs": 2.5}""", "logprobs")]
    [InlineData("""{"prompt": "x", "top_logprobs": 2}""", "top_logprobs")]
    public async Task WhatIsWrongWithACompletion_IsNamed(string json, string field)
    {
        var (status, answer) = await _server.PostAsync("v1/completions", json);
        Assert.Equal((400, field), (status, answer.GetProperty("error").GetProperty("param").GetString()));
    }

    [Theory]
    [InlineData("v1/chat/completions", "{", 400)]
    [InlineData("v1/chat/completions", "[]", 400)]
    [InlineData("v1/chat/completions", """{"model": "other", "messages": [{"role": "user", "content": "x"}]}""", 404)]
    [InlineData("v1/completions", """{"prompt": ""}""", 400)]
    [InlineData("v1/completions", """{"prompt": [99999]}""", 400)]
    [InlineData("v1/completions", """{"prompt": ["a", 1]}""", 400)]
    [InlineData("v1/completions", """{"prompt": "a", "echo": true}""", 400)]
    [InlineData("v1/completions", """{"prompt": ["a", "b"], "stream": true}""", 400)]
    [InlineData("tokenize", "{}", 400)]
    [InlineData("v1/embeddings", "{}", 404)]
    [InlineData("v1/models", "{}", 405)]
    public async Task EveryError_HasOneShape(string path, string json, int expected)
    {
        var (status, answer) = await _server.PostAsync(path, json);
        Assert.Equal(expected, status);
        Assert.NotEqual("", answer.GetProperty("error").GetProperty("message").GetString());
    }

    [Fact]
    public async Task WhatClientsReadOutOfAnAnswer_MayComeBackWithIt()
    {
        const string Conversation = """
            "messages": [{"role": "user", "content": "How is the weather in Xentadal?"},
              {"role": "assistant", "content": null, "refusal": null, "annotations": [], "parsed": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"location\": \"Xentadal\"}", "parsed_arguments": {"location": "Xentadal"}}}]},
              {"role": "tool", "tool_call_id": "1", "content": "{\"temperature\": 23, \"condition\": \"snowy\"}"}],
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"location": {"type": "string"}}}}}], "temperature": 0, "max_tokens": 120
            """;
        var (status, answer) = await _server.PostAsync("v1/chat/completions", $"{{{Conversation}}}");
        Assert.True(status == 200, answer.GetRawText());
        Assert.Contains("snowy", answer.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task ALongPrompt_IsTheClientsFault()
    {
        await using var server = await RunningServer.StartAsync(configure: static options => options.ContextLength = 128);
        var words = string.Join(' ', Enumerable.Repeat("word", 300));
        var (status, answer) = await server.PostAsync("v1/chat/completions", JsonSerializer.Serialize(new { messages = new[] { new { role = "user", content = words } }, stream = true }));
        Assert.DoesNotContain("ErnieModelOptions", answer.GetProperty("error").GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Equal((400, "context_length_exceeded", "messages"), (status, answer.GetProperty("error").GetProperty("code").GetString(), answer.GetProperty("error").GetProperty("param").GetString()));
        (status, answer) = await server.PostAsync("v1/completions", JsonSerializer.Serialize(new { prompt = words }));
        Assert.Equal((400, "prompt"), (status, answer.GetProperty("error").GetProperty("param").GetString()));
    }

    [Fact]
    public async Task Reasoning_HasAFieldOfItsOwn_WholeAndStreamed()
    {
        var (status, whole) = await _server.PostAsync("v1/chat/completions", $"{{{Thanks}}}");
        Assert.Equal(200, status);
        var message = whole.GetProperty("choices")[0].GetProperty("message");
        Assert.Equal("You are welcome!", message.GetProperty("content").GetString());
        var reasoning = message.GetProperty("reasoning_content").GetString();
        Assert.NotEqual("", reasoning);

        var events = await _server.StreamAsync("v1/chat/completions", $$"""{ {{Thanks}}, "stream": true, "stream_options": {"include_usage": true} }""");
        Assert.Equal("[DONE]", events[^1]);
        var chunks = events[..^1].ConvertAll(static e => JsonDocument.Parse(e).RootElement);
        Assert.Single(chunks.Select(static c => c.GetProperty("id").GetString()).Distinct());
        var deltas = chunks[..^1].ConvertAll(static c => c.GetProperty("choices")[0].GetProperty("delta"));
        Assert.Equal("You are welcome!", Joined("content"));
        Assert.Equal(reasoning, Joined("reasoning_content"));
        Assert.Equal(0, chunks[^1].GetProperty("choices").GetArrayLength());
        // Ids and times differ, and the cache knows the prompt the second time.
        Assert.Equal(whole.GetProperty("usage").GetProperty("completion_tokens_details").GetRawText(), chunks[^1].GetProperty("usage").GetProperty("completion_tokens_details").GetRawText());

        // Without being asked for, there is no usage.
        events = await _server.StreamAsync("v1/chat/completions", $$"""{ {{Thanks}}, "stream": true }""");
        Assert.DoesNotContain(events, static e => e.Contains("usage", StringComparison.Ordinal));

        (status, whole) = await _server.PostAsync("v1/chat/completions", $$"""{ {{Thanks}}, "reasoning_effort": "none" }""");
        Assert.Equal((200, 0), (status, whole.GetProperty("usage").GetProperty("completion_tokens_details").GetProperty("reasoning_tokens").GetInt32()));

        string Joined(string name) => string.Concat(deltas.Select(delta => delta.TryGetProperty(name, out var text) ? text.GetString() : ""));
    }

    [Fact]
    public async Task LogProbabilities_AreThoseOfTheContent_WholeAndStreamed()
    {
        const string Asked = Thanks + ", \"logprobs\": true, \"top_logprobs\": 2";
        // Without reasoning too, and cut within what may be the beginning of a stop sequence.
        foreach (var more in new[] { "", ", \"reasoning_effort\": \"none\"", ", \"stop\": \"welcome#\"", ", \"stop\": \"come\"" })
        {
            var (status, whole) = await _server.PostAsync("v1/chat/completions", $$"""{ {{Asked}}{{more}} }""");
            Assert.Equal(200, status);
            var choice = whole.GetProperty("choices")[0];
            var tokens = choice.GetProperty("logprobs").GetProperty("content").EnumerateArray().ToList();
            var text = choice.GetProperty("message").GetProperty("content").GetString()!;
            var bytes = tokens.SelectMany(static t => t.GetProperty("bytes").EnumerateArray()).Select(static b => b.GetByte()).ToArray();
            // A tag's newline may share a token with the text.
            Assert.StartsWith(text, Encoding.UTF8.GetString(bytes), StringComparison.Ordinal);
            Assert.InRange(bytes.Length, text.Length, text.Length + 4);
            foreach (var token in tokens)
            {
                var top = token.GetProperty("top_logprobs").EnumerateArray().ToList();
                Assert.Equal(2, top.Count);
                Assert.Equal((token.GetProperty("token").GetString(), token.GetProperty("logprob").GetDouble()), (top[0].GetProperty("token").GetString(), top[0].GetProperty("logprob").GetDouble()));
                Assert.InRange(token.GetProperty("logprob").GetDouble(), -20, 0);
            }

            var events = await _server.StreamAsync("v1/chat/completions", $$"""{ {{Asked}}{{more}}, "stream": true }""");
            var chunks = events[..^1].ConvertAll(static e => JsonDocument.Parse(e).RootElement.GetProperty("choices")[0]);
            Assert.All(chunks, static c => Assert.Equal(c.GetProperty("delta").TryGetProperty("content", out var content) && content.GetString() != "", c.GetProperty("logprobs").ValueKind == JsonValueKind.Object));
            Assert.Equal(tokens.Select(static t => t.GetRawText()), chunks.Where(static c => c.GetProperty("logprobs").ValueKind == JsonValueKind.Object).SelectMany(static c => c.GetProperty("logprobs").GetProperty("content").EnumerateArray()).Select(static t => t.GetRawText()));
        }
        var (_, without) = await _server.PostAsync("v1/chat/completions", $"{{{Thanks}}}");
        Assert.Equal(JsonValueKind.Null, without.GetProperty("choices")[0].GetProperty("logprobs").ValueKind);
    }

    [Fact]
    public async Task LogProbabilities_OfCompletions_HaveTheirOwnShape()
    {
        const string Asked = "\"prompt\": \"User: What is the capital of Norway?\\nAssistant: \", \"max_tokens\": 40, \"temperature\": 0, \"logprobs\": 2";
        foreach (var more in new[] { "", ", \"stop\": \"Osl\"" })
        {
            var (status, whole) = await _server.PostAsync("v1/completions", $$"""{ {{Asked}}{{more}} }""");
            Assert.Equal(200, status);
            var text = whole.GetProperty("choices")[0].GetProperty("text").GetString()!;
            var tokens = Read(whole.GetProperty("choices")[0]);
            Assert.True(tokens.Count > 3);
            foreach (var (name, logProbability, top, offset) in tokens)
            {
                Assert.StartsWith(text[offset..][..Math.Min(name.Length, text.Length - offset)], name, StringComparison.Ordinal);
                Assert.Equal(logProbability, top.GetProperty(name).GetDouble());
                Assert.Equal(2, top.EnumerateObject().Count());
                Assert.All(top.EnumerateObject(), p => Assert.True(p.Value.GetDouble() <= logProbability));
            }
            Assert.True(tokens[^1].Offset + tokens[^1].Name.Length >= text.Length);

            var events = await _server.StreamAsync("v1/completions", $$"""{ {{Asked}}{{more}}, "stream": true }""");
            Assert.Equal(tokens.Select(static t => (t.Name, t.LogProbability, t.Offset)), events[..^1].SelectMany(static e => Read(JsonDocument.Parse(e).RootElement.GetProperty("choices")[0])).Select(static t => (t.Name, t.LogProbability, t.Offset)));
        }

        static List<(string Name, double LogProbability, JsonElement Top, int Offset)> Read(JsonElement choice)
        {
            var all = choice.GetProperty("logprobs");
            return [.. Enumerable.Range(0, all.GetProperty("tokens").GetArrayLength()).Select(i =>
                (all.GetProperty("tokens")[i].GetString()!, all.GetProperty("token_logprobs")[i].GetDouble(), all.GetProperty("top_logprobs")[i], all.GetProperty("text_offset")[i].GetInt32()))];
        }
    }

    [Fact]
    public async Task Biases_ForceATokenAndForbidIt()
    {
        var seven = _server.Model.Tokenizer!.EncodeToIds("7").Single();
        var (_, forced) = await _server.PostAsync("v1/completions", $$"""{"prompt": "1", "max_tokens": 5, "temperature": 0, "logit_bias": {"{{seven}}": 100} }""");
        Assert.Equal("77777", forced.GetProperty("choices")[0].GetProperty("text").GetString());
        (_, forced) = await _server.PostAsync("v1/chat/completions", $$"""{ {{Thanks}}, "reasoning_effort": "none", "max_completion_tokens": 120, "logit_bias": {"{{seven}}": 100} }""");
        Assert.Equal(new string('7', 120), forced.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString());
        var (_, plain) = await _server.PostAsync("v1/completions", """{"prompt": "User: Who are you?\nAssistant: ", "max_tokens": 3, "temperature": 0, "logprobs": 0}""");
        var first = _server.Model.Tokenizer.EncodeToIds(plain.GetProperty("choices")[0].GetProperty("text").GetString()!)[0];
        var (_, other) = await _server.PostAsync("v1/completions", $$"""{"prompt": "User: Who are you?\nAssistant: ", "max_tokens": 3, "temperature": 0, "logit_bias": {"{{first}}": -100}, "logprobs": 0}""");
        Assert.NotEqual(plain.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("tokens")[0].GetString(), other.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("tokens")[0].GetString());
    }

    [Fact]
    public async Task Completions_GoOnWithText()
    {
        const string Prompt = "User: What is the capital of Norway?\\nAssistant: ";
        var (status, whole) = await _server.PostAsync("v1/completions", $$"""{"prompt": "{{Prompt}}", "max_tokens": 40, "temperature": 0}""");
        Assert.Equal(200, status);
        var text = whole.GetProperty("choices")[0].GetProperty("text").GetString()!;
        Assert.Contains("Oslo", text, StringComparison.Ordinal);
        Assert.Equal("stop", whole.GetProperty("choices")[0].GetProperty("finish_reason").GetString());

        var events = await _server.StreamAsync("v1/completions", $$"""{"prompt": "{{Prompt}}", "max_tokens": 40, "temperature": 0, "stream": true, "stream_options": {"include_usage": true} }""");
        var chunks = events[..^1].ConvertAll(static e => JsonDocument.Parse(e).RootElement);
        Assert.Equal(text, string.Concat(chunks[..^1].Select(static c => c.GetProperty("choices")[0].GetProperty("text").GetString())));
        Assert.Equal(whole.GetProperty("usage").GetProperty("completion_tokens").GetInt32(), chunks[^1].GetProperty("usage").GetProperty("completion_tokens").GetInt32());

        (status, whole) = await _server.PostAsync("v1/completions", $$"""{"prompt": ["{{Prompt}}", "{{Prompt}}"], "max_tokens": 40, "temperature": 0, "stop": "Os"}""");
        Assert.Equal((200, 2), (status, whole.GetProperty("choices").GetArrayLength()));
        Assert.All(whole.GetProperty("choices").EnumerateArray(), choice => Assert.Equal(text[..text.IndexOf("Os", StringComparison.Ordinal)], choice.GetProperty("text").GetString()));

        var ids = _server.Model.Tokenizer!.EncodeToIds(Prompt.Replace("\\n", "\n", StringComparison.Ordinal), allowSpecialTokens: false);
        (_, whole) = await _server.PostAsync("v1/completions", $$"""{"prompt": [{{string.Join(',', ids)}}], "max_tokens": 40, "temperature": 0}""");
        Assert.Equal(text, whole.GetProperty("choices")[0].GetProperty("text").GetString());
    }

    [Fact]
    public async Task Tokenize_CountsTextsAndConversations()
    {
        var (_, answer) = await _server.PostAsync("tokenize", """{"prompt": "Who are you?</s>"}""");
        Assert.Equal(_server.Model.Tokenizer!.EncodeToIds("Who are you?</s>", allowSpecialTokens: false), answer.GetProperty("tokens").EnumerateArray().Select(static t => t.GetInt32()));
        (_, answer) = await _server.PostAsync("tokenize", """{"messages": [{"role": "user", "content": "Thank you"}]}""");
        var (_, whole) = await _server.PostAsync("v1/chat/completions", $"{{{Thanks}}}");
        Assert.Equal(whole.GetProperty("usage").GetProperty("prompt_tokens").GetInt32(), answer.GetProperty("count").GetInt32());
    }

    [Fact]
    public async Task ModelsAndHealth_Tell()
    {
        var models = await _server.Http.GetFromJsonAsync<JsonElement>("v1/models", Token);
        var model = Assert.Single(models.GetProperty("data").EnumerateArray());
        Assert.Equal(_server.Model.ModelId, model.GetProperty("id").GetString());
        Assert.Equal(_server.Model.ModelId, (await _server.Http.GetFromJsonAsync<JsonElement>($"v1/models/{_server.Model.ModelId}", Token)).GetProperty("id").GetString());
        Assert.Equal(HttpStatusCode.NotFound, (await _server.Http.GetAsync(new Uri("v1/models/other", UriKind.Relative), Token)).StatusCode);
        Assert.Equal("ok", (await _server.Http.GetFromJsonAsync<JsonElement>("health", Token)).GetProperty("status").GetString());
    }

    [Fact]
    public async Task Metrics_ArePrometheusText_AndCount()
    {
        var before = Value(await MetricsAsync(), "gen_ai_server_request_duration_seconds_count");
        var (_, whole) = await _server.PostAsync("v1/chat/completions", $"{{{Thanks}}}");
        var text = await MetricsAsync();
        // Another test's model of the same name counts here too.
        Assert.True(Value(text, "gen_ai_server_request_duration_seconds_count") > before);
        Assert.All(text.Split('\n', StringSplitOptions.RemoveEmptyEntries), static line => Assert.Matches(new Regex("""^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.eE]+)$"""), line));
        foreach (var name in new[] { "gen_ai_server_time_to_first_token_seconds_bucket", "gen_ai_server_time_per_output_token_seconds_sum", "ernie_kv_cache_usage", "ernie_requests_waiting", "ernie_tokens_generated_total", "ernie_expert_imbalance" })
            Assert.Contains($"\n{name}{{", text, StringComparison.Ordinal);
        var buckets = Regex.Matches(text, """gen_ai_server_request_duration_seconds_bucket\{[^}]*le="([^"]+)"\} (\d+)""").Select(static m => long.Parse(m.Groups[2].Value, System.Globalization.CultureInfo.InvariantCulture)).ToList();
        Assert.Equal(buckets.Order(), buckets);
        Assert.Equal(Value(text, "gen_ai_server_request_duration_seconds_count"), buckets[^1]);

        Task<string> MetricsAsync() => _server.Http.GetStringAsync(new Uri("metrics", UriKind.Relative), Token);
        static double Value(string text, string name) => Regex.Match(text, $$"""(?m)^{{name}}\{[^}]*\} (\S+)$""") is { Success: true } match ? double.Parse(match.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture) : 0;
    }

    [Fact]
    public async Task ThePage_IsWhole_AndLoadsNothingFromElsewhere()
    {
        foreach (var (path, type) in new[] { ("/", "text/html"), ("/chat.css", "text/css"), ("/chat.js", "text/javascript") })
        {
            using var response = await _server.Http.GetAsync(new Uri(path, UriKind.Relative), Token);
            Assert.Equal((HttpStatusCode.OK, type), (response.StatusCode, response.Content.Headers.ContentType!.MediaType));
            Assert.Contains("script-src 'self'", response.Headers.GetValues("Content-Security-Policy").Single(), StringComparison.Ordinal);
            var text = await response.Content.ReadAsStringAsync(Token);
            Assert.DoesNotContain("://", text, StringComparison.Ordinal);
            Assert.DoesNotContain("innerHTML", text, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task OtherSites_GetNothing()
    {
        using var renamed = new HttpRequestMessage(HttpMethod.Get, "health") { Headers = { Host = "evil.example" } };
        Assert.Equal(HttpStatusCode.Forbidden, (await _server.Http.SendAsync(renamed, Token)).StatusCode);
        // What a page may post without asking the server first.
        using var form = new StringContent($"{{{Thanks}}}", Encoding.UTF8, "text/plain");
        Assert.Equal(HttpStatusCode.UnsupportedMediaType, (await _server.Http.PostAsync(new Uri("v1/chat/completions", UriKind.Relative), form, Token)).StatusCode);
    }

    [Fact]
    public async Task AKey_IsAskedFor_WhereSomethingIsToBeHad()
    {
        await using var server = await RunningServer.StartAsync("the key");
        foreach (var path in new[] { "/", "/chat.js", "/health" }) Assert.Equal(HttpStatusCode.OK, (await server.Http.GetAsync(new Uri(path, UriKind.Relative), Token)).StatusCode);
        foreach (var path in new[] { "/v1/models", "/metrics", "/elsewhere" }) Assert.Equal(HttpStatusCode.Unauthorized, (await server.Http.GetAsync(new Uri(path, UriKind.Relative), Token)).StatusCode);
        foreach (var key in new[] { "wrong", "the key2", "" })
        {
            server.Http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", key);
            var (status, answer) = await server.PostAsync("v1/chat/completions", $"{{{Thanks}}}");
            Assert.Equal((401, "invalid_api_key"), (status, answer.GetProperty("error").GetProperty("code").GetString()));
        }
        server.Http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", "the key");
        Assert.Equal(200, (await server.PostAsync("v1/chat/completions", $"{{{Thanks}}}")).Status);
    }

    [Fact]
    public async Task AFullQueue_Is429_AndAClientThatLeavesIsForgotten()
    {
        using var gate = new ManualResetEventSlim(initialState: false);
        var kernels = KernelRegistry.Choose();
        var (calls, pause) = (0, 0);
        await using var server = await RunningServer.StartAsync(configure: options =>
        {
            (options.MaxConcurrentRequests, options.MaxQueuedRequests) = (1, 1);
            options.Kernels = new HookedKernels(kernels, _ =>
            {
                Interlocked.Increment(ref calls);
                gate.Wait(Token);
                Thread.Sleep(Volatile.Read(ref pause));
            });
        });
        using var leaving = new CancellationTokenSource();
        var first = PostAsync(Thanks + ", \"stream\": true", leaving.Token);
        // The engine works on the first one, behind the gate; the second waits.
        for (var i = 0; i < 3000 && Volatile.Read(ref calls) == 0; i++) await Task.Delay(10, Token);
        var second = PostAsync(Thanks, leaving.Token);
        HttpResponseMessage? refused = null;
        for (var i = 0; i < 20 && refused is null; i++)
        {
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(Token);
            patience.CancelAfter(TimeSpan.FromSeconds(2));
            try
            {
                refused = await PostAsync(Thanks, patience.Token);
            }
            catch (OperationCanceledException) when (!Token.IsCancellationRequested)
            {
                // It came before the second one, took its place, and left.
            }
        }
        Assert.Equal(HttpStatusCode.TooManyRequests, refused!.StatusCode);
        Assert.Equal("1", refused.Headers.GetValues("Retry-After").Single());
        Assert.Equal("queue_full", (await refused.Content.ReadFromJsonAsync<JsonElement>(Token)).GetProperty("error").GetProperty("code").GetString());
        refused.Dispose();

        await leaving.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => first);
        if (await Record.ExceptionAsync(() => second) is { } left) Assert.IsAssignableFrom<OperationCanceledException>(left);
        // Slow enough for the server to hear of it long before an answer is whole.
        Volatile.Write(ref pause, 20);
        gate.Set();
        for (var i = 0; i < 3000 && !await server.Model.Invoke(static (scheduler, _) => scheduler.IsIdle); i++) await Task.Delay(10, Token);
        Volatile.Write(ref pause, 0);
        var abandoned = Interlocked.Exchange(ref calls, 0);
        using var answer = await PostAsync(Thanks, Token);
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.InRange(abandoned, 1, Volatile.Read(ref calls) / 2);

        async Task<HttpResponseMessage> PostAsync(string fields, CancellationToken cancellationToken)
        {
            using var content = new StringContent($"{{{fields}}}", Encoding.UTF8, "application/json");
            return await server.Http.PostAsync(new Uri("v1/chat/completions", UriKind.Relative), content, cancellationToken);
        }
    }
}
