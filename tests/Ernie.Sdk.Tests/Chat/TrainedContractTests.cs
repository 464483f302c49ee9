using System.ComponentModel.DataAnnotations;
using System.Diagnostics;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.Options;
using OpenTelemetry.Trace;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>
/// <see cref="ContractTests"/> once more, on the shipped model and with nothing scripted: questions, functions and documents are of the kinds that it was trained on, where the integration tests of
/// Microsoft.Extensions.AI ask about whales and pirates.
/// </summary>
/// <remarks>
/// 32 of 45 facts pass in this form, six of them (GetResponseAsync_StructuredOutputArray, Integer, String, Bool_True, Bool_False, Enum) in that the document has its type, whatever its value. Those that do not:
/// MultiModal_* (2): the models take text.
/// OpenTelemetry_CanEmitTracesAndMetrics (1): a model in the process has no server.address.
/// FunctionInvocation_NestedParameters, _ArrayParameter, _SupportsMultipleParallelRequests (3): a model of 5 million parameters that never saw such calls makes none. <see cref="ContractTests"/> has them.
/// GetResponseAsync_StructuredOutput_WithFunctions, _NonNative (2): it does not copy a result into a document, and cannot read a schema in its prompt.
/// SummarizingChatReducer_* (5): it cannot sum up. That the reducers' conversations reach it and are answered is in Interop.
/// One thing is set: its own configuration says to take the likeliest token, and Caching_OutputVariesWithoutCaching needs a temperature.
/// </remarks>
public sealed class TrainedContractTests : IAsyncLifetime
{
    private const string Question = "What is the capital of Norway?";
    private const string Weather = "How is the weather in Xentadal?";
    private const string Document = "Document\nClause 15. The review period is 26 days.\nClause 24. The rent is 54 pounds per year.\nClause 91. The return period is 65 days.\n\nExtract clause 91 as JSON.";

    private readonly List<string> _asked = [];
    private readonly AIFunction _weather;
    private ErnieModel _model = null!;
    private IChatClient _client = null!;

    public TrainedContractTests() => _weather = AIFunctionFactory.Create(
        (string location) =>
        {
            _asked.Add(location);
            return new Dictionary<string, object> { ["temperature"] = 23, ["condition"] = "snowy" };
        }, "get_weather", "Get the weather of a city.");

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await TinyModel.LoadAsync(static o => o.ChatTemplate = ErnieChatTemplate.Thinking);
        _client = _model.AsChatClient().AsBuilder().ConfigureOptions(static o => o.Reasoning = new() { Output = ReasoningOutput.None }).Build();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    // GetResponseAsync_SingleRequestMessage, _MultipleRequestMessages, _WithEmptyMessage, GetStreamingResponseAsync
    [Fact]
    public async Task Questions_AreAnswered()
    {
        Assert.Equal("The capital of Norway is Oslo.", (await _client.GetResponseAsync(Question, cancellationToken: Token)).Text);
        Assert.Equal("The capital of Norway is Oslo.", string.Concat(await _client.GetStreamingResponseAsync(Question, cancellationToken: Token).ToListAsync(Token)));
        ChatMessage[] several =
        [
            new(ChatRole.User, "What is the capital of Russia?"),
            new(ChatRole.Assistant, "The capital of Russia is Moscow."),
            new(ChatRole.User, "Which day comes after Monday?"),
        ];
        Assert.Equal("Tuesday comes after Monday.", (await _client.GetResponseAsync(several, cancellationToken: Token)).Text);
        ChatMessage[] empty = [new(ChatRole.System, []), new(ChatRole.User, []), new(ChatRole.Assistant, []), new(ChatRole.User, "How much is 6 + 5?")];
        Assert.Equal("6 + 5 = 11", (await _client.GetResponseAsync(empty, cancellationToken: Token)).Text);
    }

    // GetResponseAsync_UsageDataAvailable, GetStreamingResponseAsync_UsageDataAvailable, _AppendToHistory
    [Fact]
    public async Task Usage_AndHistory()
    {
        var whole = (await _client.GetResponseAsync(Question, cancellationToken: Token)).Usage!;
        var options = new ChatOptions { AdditionalProperties = new() { ["stream_options"] = new Dictionary<string, object> { ["include_usage"] = true } } };
        var updates = await _client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        Assert.True(updates.Count > 1);
        foreach (var usage in new[] { whole, updates.SelectMany(static u => u.Contents).OfType<UsageContent>().Single().Details })
        {
            Assert.True(usage.InputTokenCount > 1 && usage.OutputTokenCount > 1);
            Assert.Equal(usage.InputTokenCount + usage.OutputTokenCount, usage.TotalTokenCount);
        }
        List<ChatMessage> history = [new(ChatRole.User, Question)];
        await history.AddMessagesAsync(_client.GetStreamingResponseAsync(history, cancellationToken: Token), cancellationToken: Token);
        Assert.Equal("The capital of Norway is Oslo.", Assert.IsType<TextContent>(Assert.Single(history[1].Contents)).Text);
    }

    // FunctionInvocation_AutomaticallyInvokeFunction_Parameterless, _WithParameters_NonStreaming, _Streaming, _OptionalParameter
    [Fact]
    public async Task Functions_AreInvoked()
    {
        var (source, activities) = ($"contract-{Guid.NewGuid():N}", new List<Activity>());
        using var provider = OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(source).AddInMemoryExporter(activities).Build();
        using var client = new FunctionInvokingChatClient(new OpenTelemetryChatClient(_client, sourceName: source));
        var response = await client.GetResponseAsync(Weather, new() { Tools = [_weather] }, Token);
        Assert.Equal("The weather in Xentadal is snowy, 23 degrees.", response.Text);
        Assert.Equal(response.Usage!.InputTokenCount * 2, activities.Sum(static a => (int?)a.GetTagItem("gen_ai.usage.input_tokens")));
        Assert.Equal(response.Usage.OutputTokenCount * 2, activities.Sum(static a => (int?)a.GetTagItem("gen_ai.usage.output_tokens")));
        Assert.Equal(response.Text, string.Concat(await client.GetStreamingResponseAsync(Weather, new() { Tools = [_weather] }, Token).ToListAsync(Token)));
        Assert.Equal(["Xentadal", "Xentadal"], _asked);

        var optional = AIFunctionFactory.Create((string location = "nowhere", string unit = "C") => new Dictionary<string, object> { ["temperature"] = location == "Xentadal" && unit == "C" ? 7 : -1, ["condition"] = "snowy" }, "get_weather", "Get the weather of a city.");
        Assert.Equal("The weather in Xentadal is snowy, 7 degrees.", (await client.GetResponseAsync(Weather, new() { Tools = [optional] }, Token)).Text);
        var parameterless = AIFunctionFactory.Create(static () => new Dictionary<string, object> { ["temperature"] = 9, ["condition"] = "snowy" }, "get_weather", "Get the weather of the city.");
        Assert.Contains("9 degrees", (await client.GetResponseAsync(Weather, new() { Tools = [parameterless] }, Token)).Text, StringComparison.Ordinal);
    }

    // AvailableTools_SchemasAreAccepted_Strict, _NonStrict
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Schemas_AreAccepted_AndTheirCallsCanBeRequired(bool isStrict)
    {
        var tools = ContractSchemas.Tools(isStrict);
        Assert.NotNull(await _client.GetResponseAsync(Question, new() { MaxOutputTokens = 100, Tools = [.. tools] }, Token));
        foreach (var tool in tools)
        {
            var options = new ChatOptions { MaxOutputTokens = 200, Tools = [tool], ToolMode = ChatToolMode.RequireAny, AllowMultipleToolCalls = false };
            if (tool.JsonSchema.GetRawText().Contains("\"not\"", StringComparison.Ordinal))
            {
                // The model can be told of it, but no grammar keeps it.
                Assert.Contains("'not'", (await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync(Question, options, Token))).Message, StringComparison.Ordinal);
                continue;
            }
            var response = await _client.GetResponseAsync(Question, options, Token);
            Assert.Equal(tool.Name, Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>()).Name);
        }
    }

    // FunctionInvocation_RequireAny, _RequireSpecific
    [Fact]
    public async Task RequiredFunctions_AreInvoked()
    {
        var (numbers, shields) = (0, 0);
        AITool[] tools = [AIFunctionFactory.Create(() => ++numbers, "GetSecretNumber"), AIFunctionFactory.Create(() => ++shields, "ShieldsUp")];
        using var client = new FunctionInvokingChatClient(_client);
        await client.GetResponseAsync("Are birds real?", new() { Tools = [tools[0]], ToolMode = ChatToolMode.RequireAny }, Token);
        Assert.True(numbers >= 1);
        await client.GetResponseAsync("What's the current secret number?", new() { Tools = [.. tools], ToolMode = ChatToolMode.RequireSpecific("ShieldsUp") }, Token);
        Assert.True(shields >= 1);
    }

    // Caching_OutputVariesWithoutCaching, _SamePromptResultsInCacheHit_NonStreaming, _Streaming
    [Fact]
    public async Task Answers_Vary_AndCachedOnesDoNot()
    {
        using var warm = _client.AsBuilder().ConfigureOptions(static o => (o.Temperature, o.TopP, o.MaxOutputTokens) = (30, 1, 30)).Build();
        var message = new ChatMessage(ChatRole.User, "Pick a random number");
        Assert.NotEqual(await TokensAsync(warm), await TokensAsync(warm));
        using var cached = new DistributedCachingChatClient(warm, Cache());
        var first = await TokensAsync(cached);
        Assert.Equal(first, await TokensAsync(cached));
        var streamed = string.Concat(await cached.GetStreamingResponseAsync([message], Shown(), Token).ToListAsync(Token));
        Assert.Equal(streamed, string.Concat(await cached.GetStreamingResponseAsync([message], Shown(), Token).ToListAsync(Token)));
        ((TextContent)message.Contents[0]).Text += "!";
        Assert.NotEqual(first, await TokensAsync(cached));

        async Task<string> TokensAsync(IChatClient client) => string.Concat((await client.GetResponseAsync([message], Shown(), Token)).Messages.Single().Contents.OfType<TextContent>().Select(static c => c.Text));

        // At once, without reasoning that takes all tokens.
        static ChatOptions Shown() => new() { RawRepresentationFactory = static _ => new ErnieGenerationOptions { MaxReasoningTokens = 0 } };
    }

    // Caching_BeforeFunctionInvocation_AvoidsExtraCalls, _AfterFunctionInvocation_FunctionOutputUnchangedAsync, _FunctionOutputChangedAsync; Logging and its function calls see all of it
    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    public async Task Functions_AndCaches(bool isBefore, bool changes)
    {
        var (calls, requests) = (0, 0);
        var weather = AIFunctionFactory.Create((string location) => new Dictionary<string, object> { ["temperature"] = ++calls == 2 && changes ? 8 : 7, ["condition"] = "snowy" }, "get_weather", "Get the weather of a city.");
        var counted = _client.AsBuilder().ConfigureOptions(options => options.Tools = [weather]);
        counted = isBefore ? counted.UseDistributedCache(Cache()).UseFunctionInvocation() : counted.UseFunctionInvocation().UseDistributedCache(Cache());
        using var client = counted.Use((messages, options, next, cancellationToken) =>
        {
            requests++;
            return next(messages, options, cancellationToken);
        }).Build();
        Assert.Equal("The weather in Xentadal is snowy, 7 degrees.", (await client.GetResponseAsync(Weather, cancellationToken: Token)).Text);
        Assert.Equal((1, 2), (calls, requests));
        Assert.Equal($"The weather in Xentadal is snowy, {(changes ? 8 : 7)} degrees.", (await client.GetResponseAsync(Weather, cancellationToken: Token)).Text);
        Assert.Equal((isBefore ? 1 : 2, changes ? 3 : 2), (calls, requests));
    }

    // Logging_LogsCalls_NonStreaming, _Streaming, Logging_LogsFunctionCalls_NonStreaming, _Streaming
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Logs_HaveQuestionsCallsResultsAndAnswers(bool isStreaming)
    {
        using var log = new RecordedLog();
        using var client = _client.AsBuilder().UseFunctionInvocation().UseLogging(log.Factory).Build();
        var options = new ChatOptions { Tools = [_weather] };
        if (isStreaming) await client.GetStreamingResponseAsync(Weather, options, Token).ToListAsync(Token);
        else await client.GetResponseAsync(Weather, options, Token);
        var lines = log.Lines.ToList();
        var places = new[] { Weather, "\"name\": \"get_weather\"", "\"condition\": \"snowy\"" }.Select(text => lines.FindIndex(line => line.Contains(text, StringComparison.Ordinal))).ToList();
        Assert.All(places, static place => Assert.True(place >= 0));
        Assert.Equal(places.Order(), places);
        if (!isStreaming) Assert.Contains("The weather in Xentadal is snowy, 23 degrees.", lines[^1], StringComparison.Ordinal);
    }

    // GetResponseAsync_StructuredOutput, Array, Integer, String, Bool_True, Bool_False, Enum: the document's content where the model was trained on it, else its type
    [Fact]
    public async Task Documents_HaveTheirTypes()
    {
        using var client = _model.AsChatClient();
        var clause = (await client.GetResponseAsync<Clause>(Document, Limited(), cancellationToken: Token)).Result;
        Assert.Equal((91, "return period", 65), (clause.Number, clause.Period, clause.Days));
        Assert.True((await client.GetResponseAsync<Clause[]>(Document, Limited(), cancellationToken: Token)).TryGetResult(out _));
        Assert.True((await client.GetResponseAsync<long>(Document, Limited(), cancellationToken: Token)).TryGetResult(out _));
        Assert.True((await client.GetResponseAsync<string>(Document, Limited(), cancellationToken: Token)).TryGetResult(out _));
        Assert.True((await client.GetResponseAsync<bool>(Document, Limited(), cancellationToken: Token)).TryGetResult(out _));
        Assert.True((await client.GetResponseAsync<DayOfWeek>("Which day comes after Monday?", Limited(), cancellationToken: Token)).TryGetResult(out _));

        static ChatOptions Limited() => new() { MaxOutputTokens = 250, Reasoning = new() { Effort = ReasoningEffort.None } };
    }

    private static MemoryDistributedCache Cache() => new(Options.Create(new MemoryDistributedCacheOptions()));

    internal sealed record Clause([property: System.Text.Json.Serialization.JsonPropertyName("clause"), Range(0, 999)] int Number, string Period, [property: Range(0, 999)] int Days);
}
