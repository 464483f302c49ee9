using System.Diagnostics;
using System.Text.RegularExpressions;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.Options;
using OpenTelemetry.Trace;

#pragma warning disable MEAI001 // Reducers are still experimental there.

namespace Ernie.Sdk.Tests.Chat;

/// <summary>
/// What the integration tests of Microsoft.Extensions.AI (its ChatClientIntegrationTests, 45 facts) ask of a client, each under its name there, of a model that says what a good one would. The answers are scripted, all else
/// is real, and what the script answers it reads off the prompt: so a pass says that the client is able, and nothing about a model.
/// </summary>
/// <remarks>
/// 42 of 45 pass. The others, which stand here as what happens instead:
/// MultiModal_DescribeImage and MultiModal_DescribePdf: the models take text; other content is refused by name.
/// OpenTelemetry_CanEmitTracesAndMetrics: its server.address and server.port cannot be, as there is no server; the rest of it holds.
/// Caching_OutputVariesWithoutCaching says here only that nothing between caller and model keeps an answer, as the script is what varies.
/// <see cref="TrainedContractTests"/> asks the same of a model that learned its answers.
/// </remarks>
public sealed partial class ContractTests : IAsyncLifetime
{
    private ScriptedClient _model = null!;
    /// <summary>The suite wants answers that are text and nothing else, also of a model that reasons.</summary>
    private IChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await ScriptedClient.LoadAsync();
        _client = _model.AsBuilder().ConfigureOptions(static o => (o.Reasoning, o.MaxOutputTokens) = (new() { Output = ReasoningOutput.None }, o.MaxOutputTokens ?? 1000)).Build();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task GetResponseAsync_SingleRequestMessage()
    {
        _model.Answer = static prompt => Says(prompt, "biggest animal", "The blue whale.");
        Assert.Equal("The blue whale.", (await _client.GetResponseAsync("What's the biggest animal?", cancellationToken: Token)).Text);
    }

    [Fact]
    public async Task GetResponseAsync_MultipleRequestMessages()
    {
        _model.Answer = static prompt => ScriptedClient.Say(string.Join(' ', Words().Matches(prompt).Select(static m => m.Value)));
        var response = await _client.GetResponseAsync(
        [
            new(ChatRole.User, "Pick a city"),
            new(ChatRole.Assistant, "Seattle"),
            new(ChatRole.User, "And another one"),
            new(ChatRole.Assistant, "Jakarta"),
            new(ChatRole.User, "What continent are they in?"),
        ], cancellationToken: Token);
        Assert.Equal("city Seattle another Jakarta continent", response.Text);
    }

    [Fact]
    public async Task GetResponseAsync_WithEmptyMessage()
    {
        _model.Answer = static prompt => Says(prompt, "1 + 2", "3");
        var response = await _client.GetResponseAsync([new(ChatRole.System, []), new(ChatRole.User, []), new(ChatRole.Assistant, []), new(ChatRole.User, "What is 1 + 2? Reply with a single number.")], cancellationToken: Token);
        Assert.Equal("3", response.Text);
    }

    [Fact]
    public async Task GetStreamingResponseAsync()
    {
        _model.Answer = static prompt => Says(prompt, "Armstrong", "That's one small step for man, one giant leap for mankind.");
        var updates = await _client.GetStreamingResponseAsync("Quote, word for word, Neil Armstrong's famous words.", cancellationToken: Token).ToListAsync(Token);
        Assert.Equal("That's one small step for man, one giant leap for mankind.", string.Concat(updates.Select(static u => u.Text)));
    }

    [Fact]
    public async Task GetResponseAsync_UsageDataAvailable()
    {
        _model.Answer = static _ => ScriptedClient.Say("It multiplies matrices until words come out.");
        AssertAddsUp((await _client.GetResponseAsync("Explain in 10 words how AI works", cancellationToken: Token)).Usage);
    }

    [Fact]
    public async Task GetStreamingResponseAsync_UsageDataAvailable()
    {
        _model.Answer = static _ => ScriptedClient.Say("It multiplies matrices until words come out.");
        // OpenAI's way to ask for usage.
        var options = new ChatOptions { AdditionalProperties = new() { ["stream_options"] = new Dictionary<string, object> { ["include_usage"] = true } } };
        var updates = await _client.GetStreamingResponseAsync("Explain in 10 words how AI works", options, Token).ToListAsync(Token);
        Assert.True(updates.Count > 1);
        AssertAddsUp(updates.SelectMany(static u => u.Contents).OfType<UsageContent>().Single().Details);
    }

    [Fact]
    public async Task GetStreamingResponseAsync_AppendToHistory()
    {
        _model.Answer = static _ => ScriptedClient.Say("It multiplies matrices.");
        List<ChatMessage> history = [new(ChatRole.User, "Explain in 100 words how AI works")];
        await history.AddMessagesAsync(_client.GetStreamingResponseAsync(history, cancellationToken: Token), cancellationToken: Token);
        Assert.Equal([ChatRole.User, ChatRole.Assistant], history.Select(static m => m.Role));
        Assert.Equal("It multiplies matrices.", Assert.IsType<TextContent>(Assert.Single(history[1].Contents)).Text);
    }

    [Theory]
    [InlineData("image/png")]
    [InlineData("application/pdf")]
    public async Task MultiModal_IsRefused(string mediaType)
    {
        var message = new ChatMessage(ChatRole.User, [new TextContent("What does this say?"), new DataContent(new byte[] { 1 }, mediaType)]);
        Assert.Contains(nameof(DataContent), (await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync([message], cancellationToken: Token))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public Task FunctionInvocation_AutomaticallyInvokeFunction_Parameterless() =>
        AssertCallsAsync("What is the current secret number?", AIFunctionFactory.Create(static () => 42, "GetSecretNumber"), "{}", "42");

    [Fact]
    public Task FunctionInvocation_AutomaticallyInvokeFunction_WithParameters_NonStreaming() =>
        AssertCallsAsync("What is the result of SecretComputation on 42 and 84?", AIFunctionFactory.Create(static (int a, int b) => a * b, "SecretComputation"), """{"a": 42, "b": 84}""", "3528");

    [Fact]
    public async Task FunctionInvocation_AutomaticallyInvokeFunction_WithParameters_Streaming()
    {
        UseResult("SecretComputation", """{"a": 42, "b": 84}""");
        using var client = new FunctionInvokingChatClient(_client);
        var updates = await client.GetStreamingResponseAsync("What is the result of SecretComputation on 42 and 84?", new() { Tools = [AIFunctionFactory.Create(static (int a, int b) => a * b, "SecretComputation")] }, Token).ToListAsync(Token);
        Assert.Equal("It is 3528.", string.Concat(updates.Select(static u => u.Text)));
    }

    [Fact]
    public Task FunctionInvocation_OptionalParameter() =>
        AssertCallsAsync("What is the secret number for id foo?", AIFunctionFactory.Create(static (string id = "defaultId") => id is "foo" ? 42 : -1, "GetSecretNumberById"), """{"id": "foo"}""", "42");

    [Fact]
    public Task FunctionInvocation_NestedParameters() =>
        AssertCallsAsync("What is the secret number for John aged 19?", AIFunctionFactory.Create(static (PersonRecord person) => person.Name is "John" ? 42 + person.Age : -1, "GetSecretNumberByPerson"), """{"person": {"name": "John", "age": 19}}""", "61");

    [Fact]
    public async Task FunctionInvocation_ArrayParameter()
    {
        (string? shopper, List<string> cart) = (null, []);
        var add = AIFunctionFactory.Create(
            (string[] items, string shopperId) =>
            {
                cart.AddRange(items);
                shopper = shopperId;
            }, "AddItemsToShoppingCart");
        await AssertCallsAsync("Can you add bacon, lettuce, and tomatoes to Peter's shopping cart?", add, """{"items": ["bacon", "lettuce", "tomatoes"], "shopperId": "Peter"}""", "Success: Function completed.");
        Assert.Equal("Peter", shopper);
        Assert.Equal(["bacon", "lettuce", "tomatoes"], cart);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AvailableTools_SchemasAreAccepted(bool isStrict)
    {
        var tools = ContractSchemas.Tools(isStrict);
        // What is told to the model is every tool, and a call of any could be required.
        _model.Answer = prompt =>
        {
            Assert.All(tools, tool => Assert.Contains($"\"name\": \"{tool.Name}\"", prompt, StringComparison.Ordinal));
            return ScriptedClient.Say("The Eiffel Tower.");
        };
        using var client = new FunctionInvokingChatClient(_client);
        Assert.Equal("The Eiffel Tower.", (await client.GetResponseAsync("Briefly, what is the most popular tower in Paris?", new() { MaxOutputTokens = 100, Tools = [.. tools] }, Token)).Text);
    }

    [Fact]
    public async Task FunctionInvocation_SupportsMultipleParallelRequests()
    {
        var asked = new List<string>();
        _model.Answer = static prompt => Results().Matches(prompt) is { Count: 2 } ages
            ? ScriptedClient.Say($"{int.Parse(ages[0].Groups[1].Value, null) - int.Parse(ages[1].Groups[1].Value, null)}")
            : ScriptedClient.Call(("GetPersonAge", """{"personName": "Elsa"}"""), ("GetPersonAge", """{"personName": "Anna"}"""));
        using var client = new FunctionInvokingChatClient(_client) { AllowConcurrentInvocation = true };
        var tool = AIFunctionFactory.Create(
            (string personName) =>
            {
                lock (asked) asked.Add(personName);
                return personName == "Elsa" ? 21 : 18;
            }, "GetPersonAge");
        var response = await client.GetResponseAsync("How much older is Elsa than Anna? Return the age difference as a single number.", new() { Tools = [tool] }, Token);
        Assert.Equal("3", response.Text);
        Assert.Equal(["Anna", "Elsa"], asked.Order());
        Assert.Equal(2, _model.Requests);
    }

    [Fact]
    public async Task FunctionInvocation_RequireAny()
    {
        var calls = 0;
        UseResult("GetSecretNumber", "{}");
        using var client = new FunctionInvokingChatClient(_client);
        await client.GetResponseAsync("Are birds real?", new() { Tools = [AIFunctionFactory.Create(() => ++calls, "GetSecretNumber")], ToolMode = ChatToolMode.RequireAny }, Token);
        Assert.Equal(1, calls);
    }

    [Fact]
    public async Task FunctionInvocation_RequireSpecific()
    {
        var shieldsUp = false;
        UseResult("ShieldsUp", "{}");
        using var client = new FunctionInvokingChatClient(_client);
        AITool[] tools = [AIFunctionFactory.Create(static () => 123, "GetSecretNumber"), AIFunctionFactory.Create(() => shieldsUp = true, "ShieldsUp")];
        await client.GetResponseAsync("What's the current secret number?", new() { Tools = tools, ToolMode = ChatToolMode.RequireSpecific("ShieldsUp") }, Token);
        Assert.True(shieldsUp);
    }

    [Fact]
    public async Task Caching_OutputVariesWithoutCaching()
    {
        _model.Answer = _ => ScriptedClient.Say($"{_model.Requests}");
        Assert.NotEqual((await _client.GetResponseAsync("Pick a random number", cancellationToken: Token)).Text, (await _client.GetResponseAsync("Pick a random number", cancellationToken: Token)).Text);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Caching_SamePromptResultsInCacheHit(bool isStreaming)
    {
        _model.Answer = _ => ScriptedClient.Say($"{_model.Requests}");
        using var client = new DistributedCachingChatClient(_client, Cache());
        var message = new ChatMessage(ChatRole.User, "Pick a random number");
        for (var i = 0; i < 3; i++) Assert.Equal("1", await AskAsync());
        ((TextContent)message.Contents[0]).Text += "!";
        Assert.Equal("2", await AskAsync());

        async Task<string> AskAsync() => isStreaming ? string.Concat(await client.GetStreamingResponseAsync([message], cancellationToken: Token).ToListAsync(Token)) : (await client.GetResponseAsync([message], cancellationToken: Token)).Text;
    }

    [Theory]
    [InlineData("BeforeFunctionInvocation_AvoidsExtraCalls", "101", "101", 1, 2)]
    [InlineData("AfterFunctionInvocation_FunctionOutputUnchanged", "58", "58", 2, 2)]
    [InlineData("AfterFunctionInvocation_FunctionOutputChanged", "101", "102", 2, 3)]
    public async Task Caching_AndFunctions(string fact, string first, string second, int expectedCalls, int expectedRequests)
    {
        var calls = 0;
        UseResult("GetTemperature", "{}");
        var tool = AIFunctionFactory.Create(() => ++calls is var n && fact.EndsWith("Unchanged", StringComparison.Ordinal) ? "58 degrees" : $"{100 + n} degrees", "GetTemperature", "Gets the current temperature");
        var builder = _client.AsBuilder().ConfigureOptions(options => options.Tools = [tool]);
        using var client = (fact.StartsWith("Before", StringComparison.Ordinal) ? builder.UseDistributedCache(Cache()).UseFunctionInvocation() : builder.UseFunctionInvocation().UseDistributedCache(Cache())).Build();
        Assert.Equal($"It is {first} degrees.", (await client.GetResponseAsync("What is the temperature?", cancellationToken: Token)).Text);
        Assert.Equal((1, 2), (calls, _model.Requests));
        Assert.Equal($"It is {second} degrees.", (await client.GetResponseAsync("What is the temperature?", cancellationToken: Token)).Text);
        Assert.Equal((expectedCalls, expectedRequests), (calls, _model.Requests));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Logging_LogsCalls(bool isStreaming)
    {
        _model.Answer = static _ => ScriptedClient.Say("The blue whale.");
        using var log = new RecordedLog();
        using var client = _client.AsBuilder().UseLogging(log.Factory).Build();
        await AskAsync(client, isStreaming, "What's the biggest animal?", null);
        Assert.Contains("What's the biggest animal?", log.Lines.First(), StringComparison.Ordinal);
        if (isStreaming)
        {
            // Of each update one line, so that of the word's pieces.
            Assert.Contains(log.Lines, static line => line.Contains("\"text\": \"The\"", StringComparison.Ordinal));
            return;
        }
        Assert.Equal(2, log.Lines.Count);
        Assert.Contains("The blue whale.", log.Lines.Last(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Logging_LogsFunctionCalls(bool isStreaming)
    {
        UseResult("GetSecretNumber", "{}");
        using var log = new RecordedLog();
        using var client = _client.AsBuilder().UseFunctionInvocation().UseLogging(log.Factory).Build();
        await AskAsync(client, isStreaming, "What is the current secret number?", new() { Tools = [AIFunctionFactory.Create(static () => 42, "GetSecretNumber")] });
        var lines = log.Lines.ToList();
        var question = lines.FindIndex(static line => line.Contains("What is the current secret number?", StringComparison.Ordinal));
        var call = lines.FindIndex(static line => line.Contains("\"name\": \"GetSecretNumber\"", StringComparison.Ordinal));
        var result = lines.FindIndex(static line => line.Contains("\"result\": 42", StringComparison.Ordinal));
        Assert.True(question >= 0 && question < call && call < result, string.Join('\n', lines));
    }

    [Fact]
    public async Task OpenTelemetry_CanEmitTracesAndMetrics_ButForAServersAddress()
    {
        _model.Answer = static _ => ScriptedClient.Say("The blue whale.");
        var (source, activities) = ($"contract-{Guid.NewGuid():N}", new List<Activity>());
        using var provider = OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(source).AddInMemoryExporter(activities).Build();
        using var client = _client.AsBuilder().UseOpenTelemetry(sourceName: source).Build();
        await client.GetResponseAsync("What's the biggest animal?", cancellationToken: Token);
        var activity = Assert.Single(activities);
        Assert.StartsWith("chat", activity.DisplayName, StringComparison.Ordinal);
        Assert.NotEmpty(activity.Id!);
        Assert.True((int)activity.GetTagItem("gen_ai.usage.input_tokens")! > 0 && (int)activity.GetTagItem("gen_ai.usage.output_tokens")! > 0);
        Assert.True(activity.Duration > TimeSpan.Zero);
        Assert.Null(activity.GetTagItem("server.address"));
    }

    [Fact]
    public async Task GetResponseAsync_StructuredOutput()
    {
        _model.Answer = static _ => ScriptedClient.Say("""{"fullName": "Jimbo Smith", "ageInYears": 35, "homeTown": "Cardiff, Wales", "job": "Programmer"}""");
        var person = (await _client.GetResponseAsync<Person>("Who is described? Jimbo Smith is a 35-year-old programmer from Cardiff, Wales.", cancellationToken: Token)).Result;
        Assert.Equal(("Jimbo Smith", 35, "Cardiff, Wales", JobType.Programmer), (person.FullName, person.AgeInYears, person.HomeTown, person.Job));
    }

    [Fact]
    public async Task GetResponseAsync_StructuredOutputArray()
    {
        _model.Answer = static _ => ScriptedClient.Say("""{"data": [{"fullName": "Jimbo Smith", "ageInYears": 35, "homeTown": null, "job": "Programmer"}, {"fullName": "Josh Simpson", "ageInYears": 25, "homeTown": null, "job": "Programmer"}]}""");
        var people = (await _client.GetResponseAsync<Person[]>("Who are described?", cancellationToken: Token)).Result;
        Assert.Equal(["Jimbo Smith", "Josh Simpson"], people.Select(static p => p.FullName));
    }

    [Fact]
    public Task GetResponseAsync_StructuredOutputInteger() => AssertIsReadAsync("15", 15);

    [Fact]
    public Task GetResponseAsync_StructuredOutputString() => AssertIsReadAsync("\"Jimbo Smith\"", "Jimbo Smith");

    [Fact]
    public Task GetResponseAsync_StructuredOutputBool_True() => AssertIsReadAsync("true", true);

    [Fact]
    public Task GetResponseAsync_StructuredOutputBool_False() => AssertIsReadAsync("false", false);

    [Fact]
    public Task GetResponseAsync_StructuredOutputEnum() => AssertIsReadAsync("\"PopStar\"", JobType.PopStar);

    [Fact]
    public async Task GetResponseAsync_StructuredOutput_WithFunctions()
    {
        _model.Answer = static prompt => ScriptedClient.ResultIn(prompt) is { } result ? ScriptedClient.Say(result) : ScriptedClient.Call(("GetPersonById", """{"personId": 123}"""));
        var expected = new Person { FullName = "Jimbo Smith", AgeInYears = 35, HomeTown = "Cardiff", Job = JobType.Programmer };
        using var client = new FunctionInvokingChatClient(_client);
        var tool = AIFunctionFactory.Create((int personId) => personId == 123 ? expected : throw new ArgumentOutOfRangeException(nameof(personId)), "GetPersonById");
        var person = (await client.GetResponseAsync<Person>("Who is person with ID 123?", new ChatOptions { Tools = [tool] }, cancellationToken: Token)).Result;
        Assert.NotSame(expected, person);
        Assert.Equal((expected.FullName, expected.AgeInYears, expected.HomeTown, expected.Job), (person.FullName, person.AgeInYears, person.HomeTown, person.Job));
    }

    [Fact]
    public async Task GetResponseAsync_StructuredOutput_NonNative()
    {
        var captured = new List<ChatOptions?>();
        _model.Answer = static prompt =>
        {
            Assert.Contains("\"fullName\"", prompt, StringComparison.Ordinal);
            return ScriptedClient.Say("""{"fullName": "Jimbo Smith", "ageInYears": 35, "homeTown": "Cardiff", "job": "Programmer"}""");
        };
        using var client = _client.AsBuilder().Use((messages, options, next, cancellationToken) =>
        {
            captured.Add(options);
            return next(messages, options, cancellationToken);
        }).Build();
        var response = await client.GetResponseAsync<Person>("Supply an object to represent Jimbo Smith from Cardiff.", useJsonSchemaResponseFormat: false, cancellationToken: Token);
        Assert.Equal(("Jimbo Smith", "Cardiff"), (response.Result.FullName, response.Result.HomeTown));
        Assert.Null(Assert.IsType<ChatResponseFormatJson>(Assert.Single(captured)!.ResponseFormat).Schema);
    }

    [Fact]
    public async Task SummarizingChatReducer_PreservesConversationContext()
    {
        var (text, seen) = await SummariseAsync(2, 1, null, isStreaming: false,
            new(ChatRole.User, "My name is Alice and I love hiking in the mountains."),
            new(ChatRole.Assistant, "Nice to meet you, Alice! Do you have a favorite trail?"),
            new(ChatRole.User, "Yes, I love the Pacific Crest Trail."),
            new(ChatRole.Assistant, "Which section did you hike?"),
            new(ChatRole.User, "I hiked the section through the Sierra Nevada."),
            new(ChatRole.Assistant, "The Sierra Nevada section is known for its views."),
            new(ChatRole.User, "What's my name and what activity do I enjoy?"));
        Assert.Equal(4, seen.Count);
        Assert.Equal((ChatRole.Assistant, "I hiked the section through the Sierra Nevada."), (seen[0].Role, seen[1].Text));
        Assert.Contains("Alice", seen[0].Text, StringComparison.Ordinal);
        Assert.Contains("Alice", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task SummarizingChatReducer_PreservesSystemMessage()
    {
        var (text, seen) = await SummariseAsync(2, 0, null, isStreaming: false,
            new(ChatRole.System, "You are a pirate. Always respond in pirate speak."),
            new(ChatRole.User, "Tell me about the weather"),
            new(ChatRole.Assistant, "Ahoy matey! The weather be fine today."),
            new(ChatRole.User, "What about tomorrow?"),
            new(ChatRole.Assistant, "Arr, tomorrow be lookin' a bit cloudy."),
            new(ChatRole.User, "Should I bring an umbrella?"),
            new(ChatRole.Assistant, "Aye, ye best be bringin' yer umbrella."),
            new(ChatRole.User, "What's 2 + 2?"));
        Assert.Equal([ChatRole.System, ChatRole.Assistant, ChatRole.Assistant, ChatRole.User], seen.Select(static m => m.Role));
        // Answers what the system text reached it with.
        Assert.Contains("<system_setting>\nYou are a pirate.", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task SummarizingChatReducer_WithFunctionCalls()
    {
        var seen = new List<IReadOnlyList<ChatMessage>>();
        using var client = _client.AsBuilder().Use(inner => Summarising(inner, 2, 0, null, seen.Add)).UseFunctionInvocation().Build();
        _model.Answer = static prompt => prompt.Contains("GetWeather", StringComparison.Ordinal)
            ? ScriptedClient.ResultIn(prompt) is { } result ? ScriptedClient.Say($"Miami: {result}.") : ScriptedClient.Call(("GetWeather", """{"city": "Miami"}"""))
            : ScriptedClient.Say("They spoke of Seattle and Miami.");
        var tool = AIFunctionFactory.Create(static (string city) => city == "Miami" ? "Sunny, 28°C" : "Rainy, 15°C", "GetWeather", "Gets weather for a city");
        var response = await client.GetResponseAsync(
        [
            new(ChatRole.User, "What's the weather in Seattle?"),
            new(ChatRole.Assistant, "Let me check the weather in Seattle for you."),
            new(ChatRole.User, "And what about Miami?"),
            new(ChatRole.Assistant, "I'll check Miami's weather as well."),
            new(ChatRole.User, "Which city had better weather?"),
        ], new() { Tools = [tool] }, Token);
        Assert.Equal("Miami: Sunny, 28°C.", response.Text);
        Assert.Equal(3, seen[0].Count);
    }

    [Fact]
    public async Task SummarizingChatReducer_Streaming()
    {
        var (text, seen) = await SummariseAsync(2, 0, null, isStreaming: true,
            new(ChatRole.User, "I'm Bob and I work as a software engineer at a startup."),
            new(ChatRole.Assistant, "Nice to meet you, Bob!"),
            new(ChatRole.User, "We build tools for education."),
            new(ChatRole.Assistant, "That sounds impactful!"),
            new(ChatRole.User, "Yes, we focus on personalized learning."),
            new(ChatRole.Assistant, "Personalized learning is the future!"),
            new(ChatRole.User, "Was anyone named? Provide their name and job."));
        Assert.Equal(3, seen.Count);
        Assert.Contains("Bob", seen[0].Text, StringComparison.Ordinal);
        Assert.Contains("software engineer", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task SummarizingChatReducer_CustomPrompt()
    {
        const string Prompt = "Summarize the conversation, emphasizing any numbers.";
        var (text, seen) = await SummariseAsync(2, 0, Prompt, isStreaming: false,
            new(ChatRole.User, "I have 3 cats and 2 dogs."),
            new(ChatRole.Assistant, "That's 5 pets total!"),
            new(ChatRole.User, "I spend about $200 per month on pet food."),
            new(ChatRole.Assistant, "That's a significant expense."),
            new(ChatRole.User, "They eat 10 cans of food per week."),
            new(ChatRole.Assistant, "That's quite a bit of food!"),
            new(ChatRole.User, "How many pets do I have in total?"));
        Assert.Contains(Prompt, seen[0].Text, StringComparison.Ordinal);
        Assert.Contains("5 pets", text, StringComparison.Ordinal);
    }

    /// <summary>The model that summarises says what it was given, and the one that answers says that again.</summary>
    private async Task<(string Text, IReadOnlyList<ChatMessage> Seen)> SummariseAsync(int count, int threshold, string? prompt, bool isStreaming, params ChatMessage[] messages)
    {
        var seen = new List<IReadOnlyList<ChatMessage>>();
        _model.Answer = static prompt => ScriptedClient.Say(prompt.Replace("<|im_start|>", "", StringComparison.Ordinal).Replace("<|im_end|>", "", StringComparison.Ordinal).Replace("<think>", "", StringComparison.Ordinal).Replace("</think>", "", StringComparison.Ordinal).Replace("response>", ">", StringComparison.Ordinal));
        using var client = Summarising(_client, count, threshold, prompt, seen.Add);
        var text = await AskAsync(client, isStreaming, messages, null);
        Assert.Equal(2, _model.Requests);
        return (text, Assert.Single(seen));
    }

    private static IChatClient Summarising(IChatClient inner, int count, int threshold, string? prompt, Action<IReadOnlyList<ChatMessage>> see)
    {
        var reducer = new SummarizingChatReducer(inner, count, threshold);
        if (prompt is not null) reducer.SummarizationPrompt = prompt;
        return inner.AsBuilder().UseChatReducer(reducer).Use(async (messages, options, next, cancellationToken) =>
        {
            see([.. messages]);
            await next(messages, options, cancellationToken);
        }).Build();
    }

    private async Task AssertCallsAsync(string question, AIFunction tool, string arguments, string result)
    {
        UseResult(tool.Name, arguments);
        var (source, activities) = ($"contract-{Guid.NewGuid():N}", new List<Activity>());
        using var provider = OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(source).AddInMemoryExporter(activities).Build();
        using var client = new FunctionInvokingChatClient(new OpenTelemetryChatClient(_client, sourceName: source));
        var response = await client.GetResponseAsync(question, new() { Tools = [tool] }, Token);
        Assert.Equal($"It is {result.TrimEnd('.')}.", response.Text.Replace("..", ".", StringComparison.Ordinal));
        // Once for each request, and once for the whole.
        Assert.Equal(response.Usage!.InputTokenCount * 2, activities.Sum(static a => (int?)a.GetTagItem("gen_ai.usage.input_tokens")));
        Assert.Equal(response.Usage.OutputTokenCount * 2, activities.Sum(static a => (int?)a.GetTagItem("gen_ai.usage.output_tokens")));
    }

    private async Task AssertIsReadAsync<T>(string json, T expected)
    {
        _model.Answer = _ => ScriptedClient.Say($"{{\"data\": {json}}}");
        Assert.Equal(expected, (await _client.GetResponseAsync<T>("What is it?", cancellationToken: Token)).Result);
    }

    /// <summary>A model that calls a function and then tells its result.</summary>
    private void UseResult(string name, string arguments) => _model.Answer = prompt => ScriptedClient.ResultIn(prompt) is { } result ? ScriptedClient.Say($"It is {result}.") : ScriptedClient.Call((name, arguments));

    private static string Says(string prompt, string heard, string answer)
    {
        Assert.Contains(heard, prompt, StringComparison.Ordinal);
        return ScriptedClient.Say(answer);
    }

    private static Task<string> AskAsync(IChatClient client, bool isStreaming, string question, ChatOptions? options) => AskAsync(client, isStreaming, [new(ChatRole.User, question)], options);

    private static async Task<string> AskAsync(IChatClient client, bool isStreaming, ChatMessage[] messages, ChatOptions? options) =>
        isStreaming ? string.Concat(await client.GetStreamingResponseAsync(messages, options, Token).ToListAsync(Token)) : (await client.GetResponseAsync(messages, options, Token)).Text;

    private static void AssertAddsUp(UsageDetails? usage)
    {
        Assert.True(usage?.InputTokenCount > 1 && usage.OutputTokenCount > 1);
        Assert.Equal(usage.InputTokenCount + usage.OutputTokenCount, usage.TotalTokenCount);
    }

    private static MemoryDistributedCache Cache() => new(Options.Create(new MemoryDistributedCacheOptions()));

    [GeneratedRegex("city|Seattle|another|Jakarta|continent")]
    private static partial Regex Words();

    [GeneratedRegex("<tool_response>\n(.*?)\n</tool_response>")]
    private static partial Regex Results();

    internal sealed record PersonRecord(string Name, int Age = 42);

    internal sealed class Person
    {
        public string? FullName { get; set; }
        public int AgeInYears { get; set; }
        public string? HomeTown { get; set; }
        public JobType Job { get; set; }
    }

    internal enum JobType
    {
        Wombat,
        PopStar,
        Programmer,
        Unknown,
    }
}
