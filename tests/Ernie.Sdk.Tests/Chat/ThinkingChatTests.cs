using System.Text.Json;
using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Reasoning and tools, end to end on the shipped model in its thinking template.</summary>
public sealed class ThinkingChatTests : IAsyncLifetime
{
    private static readonly AITool[] s_tools =
    [
        AIFunctionFactory.CreateDeclaration("get_weather", "Get the weather of a city.", Schema("location")),
        AIFunctionFactory.CreateDeclaration("Search", "Search for documents.", Schema("q")),
    ];

    private ErnieModel _model = null!;
    private IChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await TinyModel.LoadAsync(static o => o.ChatTemplate = ErnieChatTemplate.Thinking);
        _client = _model.AsChatClient();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task Reasoning_IsApartFromTheAnswer()
    {
        var updates = await _client.GetStreamingResponseAsync("Thank you", Greedy(), Token).ToListAsync(Token);
        var response = updates.ToChatResponse();
        Assert.Equal("You are welcome!", response.Text);
        var reasoning = string.Concat(response.Messages.Single().Contents.OfType<TextReasoningContent>().Select(static c => c.Text));
        Assert.NotEqual("", reasoning);
        Assert.DoesNotContain(updates, static u => u.ToString().Contains('<', StringComparison.Ordinal));
        Assert.InRange(response.Usage!.ReasoningTokenCount!.Value, 1, response.Usage.OutputTokenCount!.Value - 1);
        Assert.Equal(ChatFinishReason.Stop, response.FinishReason);

        var hidden = await _client.GetResponseAsync("Thank you", Greedy(o => o.Reasoning = new() { Output = ReasoningOutput.None }), Token);
        Assert.IsType<TextContent>(Assert.Single(hidden.Messages.Single().Contents));
        Assert.Equal(("You are welcome!", response.Usage.ReasoningTokenCount), (hidden.Text, hidden.Usage!.ReasoningTokenCount));
    }

    [Fact]
    public async Task WithoutEffort_TheModelAnswersAtOnce()
    {
        ChatMessage[] messages = [new(ChatRole.User, "Thank you")];
        var options = Greedy(o => o.Reasoning = new() { Effort = ReasoningEffort.None });
        Assert.EndsWith("<|im_start|>assistant\n<think>\n\n</think>\n\n", Prompt(messages, options), StringComparison.Ordinal);
        var response = await _client.GetResponseAsync(messages, options, Token);
        Assert.Equal(0, response.Usage!.ReasoningTokenCount);
        Assert.Empty(response.Messages.Single().Contents.OfType<TextReasoningContent>());
        Assert.Equal(await _model.CountTokensAsync(messages, options, Token), response.Usage.InputTokenCount);
    }

    [Fact]
    public async Task ABudget_EndsTheReasoning_AndTheAnswerComes()
    {
        var free = (await _client.GetResponseAsync("Thank you", Greedy(), Token)).Usage!;
        for (var budget = 1; budget < free.ReasoningTokenCount - 1; budget++)
        {
            var response = await _client.GetResponseAsync("Thank you", WithBudget(budget), Token);
            var reasoning = string.Concat(response.Messages.Single().Contents.OfType<TextReasoningContent>().Select(static c => c.Text));
            Assert.Equal(budget, _model.Tokenizer!.CountTokens(reasoning));
            Assert.NotEqual("", response.Text);
            Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
            Assert.Equal(free.InputTokenCount, response.Usage!.InputTokenCount);
            // The closing tag of the client's counts as the model's would.
            Assert.InRange(response.Usage.ReasoningTokenCount!.Value, budget + 1, budget + 3);

            response = await _client.GetResponseAsync("Thank you", WithBudget(budget, 12), Token);
            Assert.InRange(response.Usage!.OutputTokenCount!.Value, 1, 12);
            Assert.Equal(ChatFinishReason.Length, response.FinishReason);
        }
        Assert.Equal("You are welcome!", (await _client.GetResponseAsync("Thank you", WithBudget(1000), Token)).Text);
        Assert.Equal("You are welcome!", (await _client.GetResponseAsync("Thank you", Greedy(static o => o.Reasoning = new() { Effort = ReasoningEffort.Low }), Token)).Text);
        var request = ((ErnieChatClient)_client).Request([new(ChatRole.User, "x")], Greedy(static o => o.Reasoning = new() { Effort = ReasoningEffort.Medium }));
        Assert.Equal(4096, request.Generation.MaxReasoningTokens);

        static ChatOptions WithBudget(int budget, int most = 120) => new() { Temperature = 0, MaxOutputTokens = most, RawRepresentationFactory = _ => new ErnieGenerationOptions { MaxReasoningTokens = budget } };
    }

    [Fact]
    public async Task ACall_ComesOutAndItsResultGoesBackIn()
    {
        var messages = new List<ChatMessage> { new(ChatRole.User, "How is the weather in Xentadal?") };
        var options = Greedy(static o => o.Tools = s_tools);
        var response = await _client.GetResponseAsync(messages, options, Token);
        var call = Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>());
        Assert.Equal(("get_weather", "Xentadal"), (call.Name, call.Arguments!["location"]!.ToString()));
        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);

        messages.AddMessages(response);
        messages.Add(new(ChatRole.Tool, [new FunctionResultContent(call.CallId, new { temperature = 23, condition = "snowy" })]));
        var prompt = Prompt(messages, options);
        Assert.Contains("<tool_list>\n[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Get the weather of a city.\", \"parameters\": {\"type\": \"object\", ", prompt, StringComparison.Ordinal);
        Assert.Contains("\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"location\": \"Xentadal\"}}\n</tool_call>\n", prompt, StringComparison.Ordinal);
        Assert.Contains("<tool_response>\n{\"temperature\": 23, \"condition\": \"snowy\"}\n</tool_response>", prompt, StringComparison.Ordinal);
        Assert.Contains("snowy", (await _client.GetResponseAsync(messages, options, Token)).Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task FunctionInvocation_CallsTheFunction_StreamingOrNot()
    {
        var asked = new List<string>();
        var weather = AIFunctionFactory.Create(
            (string location) =>
            {
                asked.Add(location);
                return new Dictionary<string, object> { ["temperature"] = 23, ["condition"] = "snowy" };
            }, "get_weather", "Get the weather of a city.");
        using var client = _client.AsBuilder().UseFunctionInvocation().Build();
        var options = Greedy(o => o.Tools = [weather]);
        var response = await client.GetResponseAsync("How is the weather in Xentadal?", options, Token);
        var streamed = await client.GetStreamingResponseAsync("How is the weather in Xentadal?", options, Token).ToListAsync(Token);
        Assert.Equal(["Xentadal", "Xentadal"], asked);
        Assert.Contains("snowy", response.Text, StringComparison.Ordinal);
        Assert.Equal(response.Text, string.Concat(streamed.Select(static u => u.Text)));
        Assert.Equal(3, response.Messages.Count);
    }

    [Fact]
    public async Task WithToolModeNone_TheModelHearsOfNoTools()
    {
        ChatMessage[] messages = [new(ChatRole.User, "How is the weather in Xentadal?")];
        var without = Prompt(messages, Greedy());
        Assert.Equal(without, Prompt(messages, Greedy(static o => (o.Tools, o.ToolMode) = (s_tools, ChatToolMode.None))));
        Assert.NotEqual(without, Prompt(messages, Greedy(static o => (o.Tools, o.ToolMode) = (s_tools, ChatToolMode.Auto))));
        var response = await _client.GetResponseAsync(messages, Greedy(static o => (o.Tools, o.ToolMode) = (s_tools, ChatToolMode.None)), Token);
        Assert.Empty(response.Messages.Single().Contents.OfType<FunctionCallContent>());
    }

    [Fact]
    public void Results_StandInTheOrderOfTheirCalls()
    {
        ChatMessage[] messages =
        [
            new(ChatRole.User, "x"),
            new(ChatRole.Assistant, [new FunctionCallContent("1", "f"), new FunctionCallContent("2", "g", new Dictionary<string, object?> { ["n"] = 1.5, ["t"] = "é" })]),
            new(ChatRole.Tool, [new FunctionResultContent("2", "second"), new FunctionResultContent("1", JsonSerializer.SerializeToElement("first"))]),
            new(ChatRole.Tool, [new FunctionResultContent("3", null) { Exception = new IOException("gone") }]),
        ];
        var prompt = Prompt(messages, Greedy(static o => o.Tools = s_tools));
        Assert.EndsWith(
            "<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"n\": 1.5, \"t\": \"é\"}}\n</tool_call>\n<|im_end|>\n\n"
            + string.Concat(new[] { "first", "second", "Error: gone" }.Select(static text => $"<|im_start|>user\n<tool_response>\n{text}\n</tool_response><|im_end|>\n\n")) + "<|im_start|>assistant\n<think>\n", prompt, StringComparison.Ordinal);
    }

    [Fact]
    public void SystemTexts_StandTogether_WhereTheTemplateHasOnePlaceForThem()
    {
        ChatMessage[] messages = [new(ChatRole.User, "q"), new(ChatRole.System, "second"), new(ChatRole.Assistant, "a"), new(ChatRole.System, "third")];
        var expected = "<|im_start|>system\n<system_setting>\nfirst\nsecond\nthird\n</system_setting>\n\n<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n<|im_start|>user\nq<|im_end|>\n\n";
        Assert.StartsWith(expected, Prompt(messages, Greedy(static o => o.Instructions = "first")), StringComparison.Ordinal);
        Assert.StartsWith(expected, Prompt([new(ChatRole.System, "first"), .. messages], Greedy()), StringComparison.Ordinal);
        Assert.True(new Ernie.Sdk.Chat.Templates.StandardTemplate().TakesLateSystem);
        Assert.False(new Ernie.Sdk.Chat.Templates.ThinkingTemplate().TakesLateSystem);
    }

    [Fact]
    public async Task WhatTheModelCannotDo_IsRefusedByName()
    {
        await RefusesAsync("ChatOptions.Tools", static o => o.Tools = [new HostedWebSearchTool()]);
        await RefusesAsync("ChatOptions.Reasoning.Output", static o => o.Reasoning = new() { Output = ReasoningOutput.Summary });
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync([new ChatMessage(ChatRole.Tool, "x")], Greedy(), Token));
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync([new ChatMessage(ChatRole.User, [new FunctionCallContent("1", "f")])], Greedy(), Token));

        async Task RefusesAsync(string name, Action<ChatOptions> change) =>
            Assert.StartsWith(name, (await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync("x", Greedy(change), Token))).Message, StringComparison.Ordinal);
    }

    private string Prompt(IEnumerable<ChatMessage> messages, ChatOptions options)
    {
        var client = (ErnieChatClient)_client;
        return _model.Tokenizer!.Decode(client.Encode(client.Request(messages, options)), skipSpecialTokens: false);
    }

    private static ChatOptions Greedy(Action<ChatOptions>? change = null)
    {
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 120 };
        change?.Invoke(options);
        return options;
    }

    private static JsonElement Schema(string parameter) => JsonDocument.Parse($$$"""{"type": "object", "properties": {"{{{parameter}}}": {"type": "string"}}, "required": ["{{{parameter}}}"]}""").RootElement;
}
