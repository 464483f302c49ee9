using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Microsoft.Extensions.AI calls functions that the shipped model asks for.</summary>
public sealed class FunctionInvocationTests : IAsyncLifetime
{
    private readonly Tools _tools = new();
    private CountedModel _model = null!;
    private IChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await CountedModel.LoadAsync();
        _client = _model.Client.AsBuilder().UseFunctionInvocation().Build();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Theory]
    [InlineData("How is the weather in Xentadal?", "Xentadal", "The weather in Xentadal is snowy, 23 degrees.")]
    [InlineData("What is the price of bottles?", "bottles", "The price of bottles is 383 euros.")]
    [InlineData("Tell me the time in Seoul.", "Seoul", "It is 22:51 in Seoul.")]
    [InlineData("How much is 2947 plus 2462?", "2947 2462", "2947 + 2462 = 5409")]
    public async Task OneOfFourFunctions_IsCalled_AndItsResultIsTheAnswer(string question, string argument, string answer)
    {
        var response = await _client.GetResponseAsync(question, CountedModel.Greedy(_tools.All), Token);
        Assert.Equal(answer, response.Text);
        Assert.Equal([argument], _tools.Calls);
        Assert.Equal([ChatRole.Assistant, ChatRole.Tool, ChatRole.Assistant], response.Messages.Select(static m => m.Role));

        var streamed = (await _client.GetStreamingResponseAsync(question, CountedModel.Greedy(_tools.All), Token).ToListAsync(Token)).ToChatResponse();
        Assert.Equal(answer, streamed.Text);
        Assert.Equal([argument, argument], _tools.Calls);
        // The two passes' counts together.
        Assert.Equal((response.Usage!.InputTokenCount, response.Usage.OutputTokenCount), (streamed.Usage!.InputTokenCount, streamed.Usage.OutputTokenCount));
        Assert.Equal(response.Usage.InputTokenCount + response.Usage.OutputTokenCount, response.Usage.TotalTokenCount);
    }

    [Fact]
    public async Task AConversation_GoesOn_WithItsCallsAndResults()
    {
        var messages = new List<ChatMessage> { new(ChatRole.User, "How is the weather in Xentadal?") };
        messages.AddMessages(await _client.GetResponseAsync(messages, CountedModel.Greedy(_tools.All), Token));
        messages.Add(new(ChatRole.User, "Thank you"));
        var second = await _client.GetResponseAsync(messages, CountedModel.Greedy(_tools.All), Token);
        Assert.Equal("You are welcome!", second.Text);
        Assert.True(second.Usage!.CachedInputTokenCount > 0);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AFunctionThatAsksForApproval_WaitsForIt(bool isApproved)
    {
        var options = CountedModel.Greedy(new ApprovalRequiredAIFunction(_tools.Weather));
        var messages = new List<ChatMessage> { new(ChatRole.User, "How is the weather in Xentadal?") };
        var response = await _client.GetResponseAsync(messages, options, Token);
        var request = Assert.Single(response.Messages.SelectMany(static m => m.Contents).OfType<ToolApprovalRequestContent>());
        Assert.Empty(_tools.Calls);
        messages.AddMessages(response);
        messages.Add(new(ChatRole.User, [request.CreateResponse(isApproved)]));
        response = await _client.GetResponseAsync(messages, options, Token);
        Assert.Equal(isApproved ? ["Xentadal"] : [], _tools.Calls);
        Assert.Equal(isApproved, response.Text.Contains("snowy", StringComparison.Ordinal));
    }

    [Fact]
    public async Task AFailure_GoesBackToTheModel()
    {
        var failing = AIFunctionFactory.Create(string (string location) => throw new IOException($"{location} is out of reach"), "get_weather", "Get the weather of a city.");
        using var client = _model.Client.AsBuilder().UseFunctionInvocation(configure: static c => c.IncludeDetailedErrors = true).Build();
        var response = await client.GetResponseAsync("How is the weather in Xentadal?", CountedModel.Greedy(failing), Token);
        var result = response.Messages.SelectMany(static m => m.Contents).OfType<FunctionResultContent>().First();
        Assert.Contains("Xentadal is out of reach", result.Result?.ToString(), StringComparison.Ordinal);
        Assert.Equal(ChatRole.Assistant, response.Messages[^1].Role);
    }

    [Fact]
    public async Task ARequiredFunction_IsCalled_ThoughNobodyAskedForIt()
    {
        var options = CountedModel.Greedy(_tools.All);
        options.ToolMode = ChatToolMode.RequireSpecific("get_price");
        options.AllowMultipleToolCalls = false;
        var response = await _client.GetResponseAsync("How is the weather in Xentadal?", options, Token);
        Assert.Equal("get_price", response.Messages[0].Contents.OfType<FunctionCallContent>().Single().Name);
        Assert.NotEmpty(_tools.Calls);
    }

    [Fact]
    public async Task ACallOfAFunctionThatTheCallerHas_ComesBackToTheCaller()
    {
        var response = await _client.GetResponseAsync("How is the weather in Xentadal?", CountedModel.Greedy(_tools.Weather.AsDeclarationOnly()), Token);
        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);
        Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>());
        Assert.Empty(_tools.Calls);
    }
}
