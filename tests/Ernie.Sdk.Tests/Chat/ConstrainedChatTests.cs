using System.ComponentModel;
using System.Text.Json;
using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Answers that must be documents or calls, end to end on the shipped model, in both of its templates.</summary>
public sealed class ConstrainedChatTests : IAsyncLifetime
{
    private static readonly JsonElement s_schema = JsonDocument.Parse("""
        {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "minimum": 1, "maximum": 99}, "tags": {"type": "array", "items": {"enum": ["old", "<b>"]}, "minItems": 1}}, "required": ["city", "people", "tags"]}
        """).RootElement;
    private static readonly AITool[] s_tools =
    [
        AIFunctionFactory.CreateDeclaration("get_weather", "Get the weather of a city.", JsonDocument.Parse("""{"type": "object", "properties": {"location": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}}, "required": ["location", "days"]}""").RootElement),
        AIFunctionFactory.CreateDeclaration("Search", "Search for documents.", JsonDocument.Parse("""{"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}""").RootElement),
    ];

    private ErnieModel _plain = null!;
    private ErnieModel _thinking = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _plain = await TinyModel.LoadAsync();
        _thinking = await TinyModel.LoadAsync(static o => o.ChatTemplate = ErnieChatTemplate.Thinking);
    }

    public async ValueTask DisposeAsync()
    {
        await _plain.DisposeAsync();
        await _thinking.DisposeAsync();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ASchema_IsKept_WhateverTheBudgetAndTheSeed(bool isThinking)
    {
        using var client = (isThinking ? _thinking : _plain).AsChatClient();
        foreach (var most in new[] { 60, 90, 200 })
        {
            for (var seed = 0; seed < 6; seed++)
            {
                var options = new ChatOptions { ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema), MaxOutputTokens = most, Temperature = seed * 2, TopP = 1, Seed = seed };
                var updates = await client.GetStreamingResponseAsync("Where is the capital of Norway?", options, Token).ToListAsync(Token);
                var response = updates.ToChatResponse();
                using var document = JsonDocument.Parse(response.Text);
                var root = document.RootElement;
                Assert.InRange(root.GetProperty("city").GetString()!.Length, 0, 40);
                Assert.InRange(root.GetProperty("people").GetInt32(), 1, 99);
                Assert.All(root.GetProperty("tags").EnumerateArray(), static tag => Assert.Contains(tag.GetString(), new[] { "old", "<b>" }));
                Assert.NotEmpty(root.GetProperty("tags").EnumerateArray());
                Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
                Assert.InRange(response.Usage!.OutputTokenCount!.Value, 1, most);
                Assert.Equal(isThinking && response.Usage.ReasoningTokenCount > 1, response.Messages.Single().Contents.OfType<TextReasoningContent>().Any());
            }
        }
    }

    [Fact]
    public async Task Json_IsAnObject_AndAnyDocumentWhereASchemaSaysSo()
    {
        using var client = _plain.AsChatClient();
        var kinds = new HashSet<JsonValueKind>();
        for (var seed = 0; seed < 20; seed++)
        {
            Assert.Equal(JsonValueKind.Object, await KindAsync(ChatResponseFormat.Json, seed));
            kinds.Add(await KindAsync(ChatResponseFormat.ForJsonSchema(JsonElement.Parse(seed % 2 == 0 ? "true" : "{}")), seed));
        }
        Assert.True(kinds.Count > 1, string.Join(", ", kinds));

        async Task<JsonValueKind> KindAsync(ChatResponseFormat format, int seed)
        {
            var response = await client.GetResponseAsync("Who are you?", new() { ResponseFormat = format, MaxOutputTokens = 2 + (seed * 3), Temperature = 20, TopP = 1, Seed = seed }, Token);
            Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
            using var document = JsonDocument.Parse(response.Text);
            return document.RootElement.ValueKind;
        }
    }

    [Fact]
    public async Task ATypedAnswer_ComesWithItsType()
    {
        var response = await _plain.AsChatClient().GetResponseAsync<Person>("Who are you?", new ChatOptions { MaxOutputTokens = 200, Temperature = 5, Seed = 1 }, cancellationToken: Token);
        Assert.True(response.TryGetResult(out var person));
        Assert.NotNull(person.Name);
        Assert.NotEmpty(Enum.GetName(person.Mood)!);
    }

    [Fact]
    public async Task ABudgetBelowTheShortestDocument_IsRefused_WithTheNumber()
    {
        using var client = _plain.AsChatClient();
        var options = new ChatOptions { ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema), MaxOutputTokens = 5, Temperature = 0 };
        var e = await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("x", options, Token));
        var least = int.Parse(System.Text.RegularExpressions.Regex.Match(e.Message, "has (\\d+) tokens, and there is room for 5").Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture);
        options.MaxOutputTokens = least;
        var response = await client.GetResponseAsync("x", options, Token);
        Assert.Equal((ChatFinishReason.Stop, least), (response.FinishReason, (int)response.Usage!.OutputTokenCount!));
        JsonDocument.Parse(response.Text).Dispose();
        options.MaxOutputTokens = least - 1;
        await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("x", options, Token));
    }

    [Fact]
    public async Task ARequiredCall_Comes_OfAnyToolOrTheOneNamed()
    {
        using var client = _thinking.AsChatClient();
        var named = new HashSet<string>();
        for (var seed = 0; seed < 12; seed++)
        {
            // One question has nothing to do with tools.
            var any = await client.GetResponseAsync("Thank you", Options(seed, ChatToolMode.RequireAny), Token);
            AssertIsCalled(any, "get_weather", "Search");
            named.UnionWith(any.Messages.Single().Contents.OfType<FunctionCallContent>().Select(static c => c.Name));
            AssertIsCalled(await client.GetResponseAsync("Thank you", Options(seed, ChatToolMode.RequireSpecific("Search")), Token), "Search");
            AssertIsCalled(await client.GetResponseAsync("Thank you", Options(seed, ChatToolMode.RequireSpecific("get_weather"), static o => o.Reasoning = new() { Effort = ReasoningEffort.None }), Token), "get_weather");
            var one = await client.GetResponseAsync("Thank you", Options(seed, ChatToolMode.RequireAny, static o => o.AllowMultipleToolCalls = false), Token);
            AssertIsCalled(one, "get_weather", "Search");
            Assert.Single(one.Messages.Single().Contents.OfType<FunctionCallContent>());
        }
        Assert.Equal(2, named.Count);
        await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("x", Options(0, ChatToolMode.RequireSpecific("missing")), Token));
        await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("x", new() { ToolMode = ChatToolMode.RequireAny }, Token));

        static ChatOptions Options(int seed, ChatToolMode mode, Action<ChatOptions>? change = null)
        {
            var options = new ChatOptions { Tools = s_tools, ToolMode = mode, MaxOutputTokens = 120, Temperature = seed * 4, TopP = 1, Seed = seed };
            change?.Invoke(options);
            return options;
        }

        static void AssertIsCalled(ChatResponse response, params string[] names)
        {
            Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);
            Assert.Empty(response.Text);
            var calls = response.Messages.Single().Contents.OfType<FunctionCallContent>().ToArray();
            Assert.NotEmpty(calls);
            foreach (var call in calls)
            {
                Assert.Contains(call.Name, names);
                Assert.Equal(JsonValueKind.String, ((JsonElement)call.Arguments![call.Name == "Search" ? "q" : "location"]!).ValueKind);
                if (call.Name != "Search") Assert.InRange(((JsonElement)call.Arguments["days"]!).GetInt32(), 1, 7);
            }
        }
    }

    [Fact]
    public async Task StrictTools_ThatMayBeCalled_AreCalledByTheirSchema_AndTextIsFree()
    {
        using var client = _thinking.AsChatClient();
        AITool[] strict = [.. s_tools.Select(static tool => new StrictTool((AIFunctionDeclaration)tool))];
        // The model has never heard of days.
        var free = Assert.Single(await CallsAsync(s_tools, 0));
        Assert.Equal("get_weather", free.Name);
        Assert.DoesNotContain("days", free.Arguments!.Keys);
        for (var seed = 0; seed < 12; seed++)
        {
            foreach (var call in await CallsAsync(strict, seed))
            {
                Assert.Equal(call.Name == "Search" ? ["q"] : new[] { "location", "days" }, call.Arguments!.Keys);
                if (call.Name == "get_weather") Assert.InRange(((JsonElement)call.Arguments["days"]!).GetInt32(), 1, 7);
            }
        }
        Assert.Equal("get_weather", (await CallsAsync(strict, 0))[0].Name);

        // Nothing else changes: not what is said, how it ends, nor what a budget cuts off.
        foreach (var most in new[] { 120, 12, 5 })
        {
            var (one, other) = (await AskAsync(s_tools, "Thank you", 0, most), await AskAsync(strict, "Thank you", 0, most));
            Assert.Equal((one.Text, one.FinishReason, one.Usage!.ReasoningTokenCount), (other.Text, other.FinishReason, other.Usage!.ReasoningTokenCount));
            Assert.Equal(most == 120 ? ChatFinishReason.Stop : ChatFinishReason.Length, other.FinishReason);
        }
        foreach (var budget in new[] { 1, 3, 6 })
        {
            var (one, other) = (await BudgetAsync(s_tools, budget), await BudgetAsync(strict, budget));
            Assert.Equal((one.Text, one.FinishReason, one.Usage!.ReasoningTokenCount), (other.Text, other.FinishReason, other.Usage!.ReasoningTokenCount));
        }
        // A call that does not fit is not begun.
        for (var most = 20; most < 60; most += 5) await CallsAsync(s_tools, 0, most);
        for (var most = 20; most < 60; most += 5) await CallsAsync(strict, 0, most);

        var open = new StrictTool(AIFunctionFactory.CreateDeclaration("get_weather", "", JsonElement.Parse("""{"type": "object", "properties": {"x": {"type": "array", "uniqueItems": true}}}""")));
        Assert.Contains("uniqueItems", (await Assert.ThrowsAsync<NotSupportedException>(() => AskAsync([open], "x", 0, 60))).Message, StringComparison.Ordinal);

        Task<ChatResponse> AskAsync(AITool[] tools, string question, int seed, int most) =>
            client.GetResponseAsync(question, new() { Tools = tools, Temperature = seed * 0.3f, TopP = 1, Seed = seed, MaxOutputTokens = most }, Token);

        Task<ChatResponse> BudgetAsync(AITool[] tools, int budget) =>
            client.GetResponseAsync("Thank you", new() { Tools = tools, Temperature = 0, MaxOutputTokens = 120, RawRepresentationFactory = _ => new ErnieGenerationOptions { MaxReasoningTokens = budget } }, Token);

        async Task<List<FunctionCallContent>> CallsAsync(AITool[] tools, int seed, int most = 200)
        {
            var contents = (await AskAsync(tools, "How is the weather in Xentadal?", seed, most)).Messages.Single().Contents;
            Assert.Empty(contents.OfType<ErrorContent>());
            return [.. contents.OfType<FunctionCallContent>()];
        }
    }

    [Fact]
    public async Task OnlyToolsThatAreThere_CanBeCalled_AndArgumentsAreFree()
    {
        using var client = _thinking.AsChatClient();
        AITool[] tools = [AIFunctionFactory.CreateDeclaration("use_get_weather_0", "Get the weather of a city.", s_tools[0] is AIFunctionDeclaration weather ? weather.JsonSchema : default), s_tools[1]];
        var called = 0;
        for (var seed = 0; seed < 24; seed++)
        {
            var options = new ChatOptions { Tools = tools, MaxOutputTokens = 200, Temperature = seed * 0.5f, TopP = 1, Seed = seed };
            var contents = (await client.GetResponseAsync("How is the weather in Xentadal?", options, Token)).Messages.Single().Contents;
            Assert.Empty(contents.OfType<ErrorContent>());
            Assert.All(contents.OfType<FunctionCallContent>(), call => Assert.Contains(call.Name, new[] { "use_get_weather_0", "Search" }));
            called += contents.OfType<FunctionCallContent>().Count();
        }
        Assert.True(called > 4, $"{called} calls.");
    }

    [Fact]
    public async Task AToolThatIsNotThere_IsAnError_WhereNoGrammarHelps()
    {
        await using var client = await ScriptedClient.LoadAsync();
        client.Answer = static _ => ScriptedClient.Call(("get_time", "{}"), ("Search", """{"q": "a < b"}"""));
        var many = Enumerable.Range(0, 200).Select(static i => (object)$"word {i} ").ToArray();
        var response = await client.GetResponseAsync("x", new() { Tools = s_tools, AdditionalProperties = new() { ["bad_words"] = many } }, Token);
        var contents = response.Messages.Single().Contents;
        var error = Assert.Single(contents.OfType<ErrorContent>());
        Assert.Equal(("unknown_tool", "The model called 'get_time', which is not among ChatOptions.Tools: get_weather, Search."), (error.ErrorCode, error.Message));
        Assert.Equal("Search", Assert.Single(contents.OfType<FunctionCallContent>()).Name);
        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);

        // With a grammar too, arguments are as the model writes them: no escape for what looks like a tag.
        client.Answer = static _ => ScriptedClient.Call(("Search", """{"q": "if a < b </response>"}"""));
        response = await client.GetResponseAsync("x", new() { Tools = s_tools }, Token);
        Assert.Equal("if a < b </response>", Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>()).Arguments!["q"]!.ToString());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task BadWords_DoNotComeInADocument_WhichIsWholeAllTheSame(bool isThinking)
    {
        using var client = (isThinking ? _thinking : _plain).AsChatClient();
        string[] words = ["old", "an", "\": ", "1"];
        var comma = _plain.Tokenizer!.EncodeToIds(",")[0];
        for (var seed = 0; seed < 10; seed++)
        {
            var text = (await AskAsync(seed, [.. words, comma])).Text;
            Assert.All(words, word => Assert.DoesNotContain(word, text, StringComparison.Ordinal));
            using var document = JsonDocument.Parse(text);
            Assert.DoesNotContain('1', document.RootElement.GetProperty("people").GetRawText());
            Assert.All(document.RootElement.GetProperty("tags").EnumerateArray(), static tag => Assert.Equal("<b>", tag.GetString()));
        }
        foreach (var word in new[] { "city", "{", "[" })
        {
            var e = await Assert.ThrowsAsync<ArgumentException>(() => AskAsync(0, [word]));
            Assert.Contains("'bad_words' leaves no answer", e.Message, StringComparison.Ordinal);
        }
        await Assert.ThrowsAsync<NotSupportedException>(() => AskAsync(0, [new string('x', 1001)]));
        await Assert.ThrowsAnyAsync<ArgumentException>(() => AskAsync(0, [99_999]));

        Task<ChatResponse> AskAsync(int seed, object[] forbidden) => client.GetResponseAsync(
            "Where is the capital of Norway?", new() { ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema), MaxOutputTokens = 90 + (seed * 10), Temperature = seed * 2, TopP = 1, Seed = seed, AdditionalProperties = new() { ["bad_words"] = forbidden } }, Token);
    }

    [Fact]
    public async Task WithToolsThatMayBeCalled_TheAnswerIsACallOrADocument()
    {
        using var client = _thinking.AsChatClient();
        var (calls, documents) = (0, 0);
        for (var seed = 0; seed < 24; seed++)
        {
            var options = new ChatOptions { Tools = s_tools, ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema), MaxOutputTokens = 150, Temperature = 8, TopP = 1, Seed = seed };
            var response = await client.GetResponseAsync(seed % 2 == 0 ? "How is the weather in Xentadal?" : "Thank you", options, Token);
            if (response.FinishReason == ChatFinishReason.ToolCalls) calls++;
            else
            {
                JsonDocument.Parse(response.Text).Dispose();
                documents++;
            }
        }
        Assert.True(calls > 0 && documents > 0, $"{calls} calls, {documents} documents.");
    }

    [Fact]
    public async Task AReasoningBudget_IsKept_BeforeADocument()
    {
        using var client = _thinking.AsChatClient();
        for (var budget = 1; budget < 6; budget++)
        {
            var options = new ChatOptions { ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema), MaxOutputTokens = 150, Temperature = 0, RawRepresentationFactory = _ => new ErnieGenerationOptions { MaxReasoningTokens = budget } };
            var response = await client.GetResponseAsync("Thank you", options, Token);
            JsonDocument.Parse(response.Text).Dispose();
            // The closing tag is cut off where it is several tokens.
            Assert.InRange(response.Usage!.ReasoningTokenCount!.Value, 1, budget + 9);
        }
    }

    [Fact]
    public async Task OthersInTheBatch_AreNotDisturbed()
    {
        using var client = _plain.AsChatClient();
        var alone = (await client.GetResponseAsync("Who are you?", Free(), Token)).Text;
        var constrained = (await client.GetResponseAsync("Who are you?", Bound(), Token)).Text;
        var together = await Task.WhenAll(Enumerable.Range(0, 8).Select(i => client.GetResponseAsync("Who are you?", i % 2 == 0 ? Free() : Bound(), Token)));
        Assert.All(together.Where(static (_, i) => i % 2 == 0), r => Assert.Equal(alone, r.Text));
        Assert.All(together.Where(static (_, i) => i % 2 == 1), r => Assert.Equal(constrained, r.Text));

        static ChatOptions Free() => new() { Temperature = 0, MaxOutputTokens = 40 };
        static ChatOptions Bound() => new() { Temperature = 3, Seed = 5, MaxOutputTokens = 60, ResponseFormat = ChatResponseFormat.ForJsonSchema(s_schema) };
    }

    [Fact]
    public async Task PreemptedOrNot_TheDocumentIsTheSame()
    {
        // Two requests of which only one fits when both have grown past a block, as documents of 120 items do.
        using var model = await TinyModel.LoadAsync(static o => (o.MaxConcurrentRequests, o.KvCacheBytes, o.ContextLength) = (4, 4 << 20, 512));
        using var client = model.AsChatClient();
        var schema = JsonElement.Parse("""{"type": "array", "minItems": 120, "maxItems": 140, "items": {"enum": [1, 2, "three"]}}""");
        var alone = new List<string>();
        for (var seed = 0; seed < 6; seed++) alone.Add(await AskAsync(seed));
        Assert.Equal(0, model.Preemptions);
        var together = await Task.WhenAll(Enumerable.Range(0, 6).Select(AskAsync));
        Assert.True(model.Preemptions > 0, $"Nobody had to wait in {model.KvBlocks.All} blocks.");
        Assert.Equal(alone, together);
        Assert.All(together, static text => JsonDocument.Parse(text).Dispose());

        async Task<string> AskAsync(int seed) =>
            (await client.GetResponseAsync("Who are you?", new() { Temperature = 9, TopP = 1, Seed = seed, MaxOutputTokens = 450, ResponseFormat = ChatResponseFormat.ForJsonSchema(schema) }, Token)).Text;
    }

    [Fact]
    public async Task SchemasOutsideTheSubset_AreRefusedByKeywordAndPath()
    {
        using var client = _plain.AsChatClient();
        var schema = JsonDocument.Parse("""{"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}}""").RootElement;
        var e = await Assert.ThrowsAsync<NotSupportedException>(() => client.GetResponseAsync("x", new() { ResponseFormat = ChatResponseFormat.ForJsonSchema(schema) }, Token));
        Assert.StartsWith("JSON schema: 'uniqueItems' at #/properties/a", e.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("x", new() { ResponseFormat = ChatResponseFormat.Json, RawRepresentationFactory = _ => new ErnieGenerationOptions { IgnoreStopTokens = true } }, Token));
    }

    private sealed class StrictTool(AIFunctionDeclaration tool) : AIFunctionDeclaration
    {
        public override string Name => tool.Name;
        public override string Description => tool.Description;
        public override JsonElement JsonSchema => tool.JsonSchema;
        public override IReadOnlyDictionary<string, object?> AdditionalProperties { get; } = new Dictionary<string, object?> { ["Strict"] = true };
    }

    internal enum Mood
    {
        Fine,
        Tired,
    }

    [Description("Somebody.")]
    internal sealed record Person(string Name, int? Age, Mood Mood, IReadOnlyList<string> Friends, double Height = 1.5);
}
