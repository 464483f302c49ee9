using System.ClientModel;
using System.Text.Json;
using OpenAI;
using OpenAI.Chat;

namespace Ernie.Sdk.Tests.Cli.Serving;

/// <summary>OpenAI's own .NET client against the server.</summary>
public sealed class OpenAIClientTests : IAsyncLifetime
{
    private const string ApiKey = "a key";
    private static readonly ChatTool s_weather = ChatTool.CreateFunctionTool("get_weather", "Get the weather of a city.",
        BinaryData.FromString("""{"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}"""));
    private RunningServer _server = null!;
    private ChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _server = await RunningServer.StartAsync(ApiKey);
        _client = Client(_server.Model.ModelId);
    }

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    [Fact]
    public async Task Chat_AnswersWithUsage()
    {
        ChatCompletion completion = await _client.CompleteChatAsync([new SystemChatMessage("Be brief."), new UserChatMessage("Thank you")], new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120 }, Token);
        Assert.Equal("You are welcome!", completion.Content[0].Text);
        Assert.Equal(ChatFinishReason.Stop, completion.FinishReason);
        Assert.Equal(_server.Model.ModelId, completion.Model);
        Assert.InRange(completion.Usage.OutputTokenDetails.ReasoningTokenCount, 1, completion.Usage.OutputTokenCount - 1);
        Assert.Equal(completion.Usage.InputTokenCount + completion.Usage.OutputTokenCount, completion.Usage.TotalTokenCount);
    }

    [Fact]
    public async Task Stream_GivesTheSameAnswerInPieces()
    {
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120 };
        ChatCompletion whole = await _client.CompleteChatAsync([new UserChatMessage("What is the capital of Norway?")], options, Token);
        var updates = new List<StreamingChatCompletionUpdate>();
        await foreach (var update in _client.CompleteChatStreamingAsync([new UserChatMessage("What is the capital of Norway?")], options, Token)) updates.Add(update);
        var pieces = updates.SelectMany(static u => u.ContentUpdate).Select(static c => c.Text).Where(static t => t.Length > 0).ToList();
        Assert.True(pieces.Count > 1);
        Assert.Equal(whole.Content[0].Text, string.Concat(pieces));
        // The client asks for usage itself.
        Assert.Equal(whole.Usage.OutputTokenCount, updates.Single(static u => u.Usage is not null).Usage.OutputTokenCount);
        Assert.Equal(ChatFinishReason.Stop, updates.Single(static u => u.FinishReason is not null).FinishReason);
        Assert.Equal(ChatMessageRole.Assistant, updates.First(static u => u.Role is not null).Role);
    }

    [Fact]
    public async Task Tools_AreCalled_AndTheirResultsGoBackIn()
    {
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, Tools = { s_weather } };
        var messages = new List<ChatMessage> { new UserChatMessage("How is the weather in Xentadal?") };
        ChatCompletion completion = await _client.CompleteChatAsync(messages, options, Token);
        Assert.Equal(ChatFinishReason.ToolCalls, completion.FinishReason);
        var call = Assert.Single(completion.ToolCalls);
        Assert.Equal("get_weather", call.FunctionName);
        Assert.Equal("Xentadal", JsonDocument.Parse(call.FunctionArguments).RootElement.GetProperty("location").GetString());

        messages.Add(new AssistantChatMessage(completion));
        messages.Add(new ToolChatMessage(call.Id, """{"temperature": 23, "condition": "snowy"}"""));
        completion = await _client.CompleteChatAsync(messages, options, Token);
        Assert.Equal(ChatFinishReason.Stop, completion.FinishReason);
        Assert.Contains("snowy", completion.Content[0].Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Tools_AreCalledInStreams()
    {
        var (names, arguments, finish) = (new List<string>(), "", (ChatFinishReason?)null);
        await foreach (var update in _client.CompleteChatStreamingAsync([new UserChatMessage("How is the weather in Xentadal?")], new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, Tools = { s_weather } }, Token))
        {
            foreach (var call in update.ToolCallUpdates)
            {
                if (call.FunctionName is not null) names.Add(call.FunctionName);
                arguments += call.FunctionArgumentsUpdate?.ToString();
            }
            finish = update.FinishReason ?? finish;
        }
        Assert.Equal(["get_weather"], names);
        Assert.Equal("Xentadal", JsonDocument.Parse(arguments).RootElement.GetProperty("location").GetString());
        Assert.Equal(ChatFinishReason.ToolCalls, finish);
    }

    [Fact]
    public async Task ASchema_IsFollowed_AndARequiredCallComes()
    {
        var schema = BinaryData.FromString("""{"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "seen": {"type": "boolean"}}, "required": ["city", "seen"], "additionalProperties": false}""");
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 200, ResponseFormat = ChatResponseFormat.CreateJsonSchemaFormat("visit", schema, jsonSchemaIsStrict: true) };
        ChatCompletion completion = await _client.CompleteChatAsync([new UserChatMessage("Thank you")], options, Token);
        var visit = JsonDocument.Parse(completion.Content[0].Text).RootElement;
        Assert.Equal(["city", "seen"], visit.EnumerateObject().Select(static p => p.Name).Order());
        Assert.Contains(visit.GetProperty("seen").ValueKind, new[] { JsonValueKind.True, JsonValueKind.False });

        options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 200, Tools = { s_weather }, ToolChoice = ChatToolChoice.CreateRequiredChoice() };
        completion = await _client.CompleteChatAsync([new UserChatMessage("Thank you")], options, Token);
        Assert.Equal("get_weather", Assert.Single(completion.ToolCalls.Select(static c => c.FunctionName).Distinct()));
    }

    [Fact]
    public async Task LogProbabilities_Come_AndBiasesAreHeeded()
    {
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, IncludeLogProbabilities = true, TopLogProbabilityCount = 3 };
        ChatCompletion completion = await _client.CompleteChatAsync([new UserChatMessage("Thank you")], options, Token);
        Assert.Equal("You are welcome!", string.Concat(completion.ContentTokenLogProbabilities.Select(static t => t.Token)).TrimEnd());
        Assert.All(completion.ContentTokenLogProbabilities, static t =>
        {
            Assert.Equal(t.Token, System.Text.Encoding.UTF8.GetString(t.Utf8Bytes!.Value.Span));
            Assert.Equal(3, t.TopLogProbabilities.Count);
            Assert.Equal(t.LogProbability, t.TopLogProbabilities[0].LogProbability);
        });
        var streamed = new List<ChatTokenLogProbabilityDetails>();
        await foreach (var update in _client.CompleteChatStreamingAsync([new UserChatMessage("Thank you")], options, Token)) streamed.AddRange(update.ContentTokenLogProbabilities);
        Assert.Equal(completion.ContentTokenLogProbabilities.Select(static t => (t.Token, t.LogProbability)), streamed.Select(static t => (t.Token, t.LogProbability)));

        options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, LogitBiases = { [_server.Model.Tokenizer!.EncodeToIds("Thank")[0]] = -100, [_server.Model.Tokenizer.EncodeToIds("You")[0]] = -100 } };
        completion = await _client.CompleteChatAsync([new UserChatMessage("Thank you")], options, Token);
        Assert.DoesNotContain("You", completion.Content[0].Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ErrorsHaveTheirStatus()
    {
        var wrongModel = await Assert.ThrowsAsync<ClientResultException>(() => Client("gpt-4o").CompleteChatAsync([new UserChatMessage("x")], null, Token));
        Assert.Equal(404, wrongModel.Status);
        Assert.Contains(_server.Model.ModelId, wrongModel.Message, StringComparison.Ordinal);
        var wrongKey = await Assert.ThrowsAsync<ClientResultException>(() => Client(_server.Model.ModelId, "another").CompleteChatAsync([new UserChatMessage("x")], null, Token));
        Assert.Equal(401, wrongKey.Status);
    }

    private ChatClient Client(string model, string key = ApiKey) => new(model, new ApiKeyCredential(key), new OpenAIClientOptions { Endpoint = new Uri(_server.Http.BaseAddress!, "v1") });
}
