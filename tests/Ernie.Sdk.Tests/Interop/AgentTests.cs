using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using Microsoft.Agents.AI;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Agents of Microsoft.Agents.AI over the shipped model.</summary>
public sealed class AgentTests : IAsyncLifetime
{
    private readonly Tools _tools = new();
    private CountedModel _model = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _model = await CountedModel.LoadAsync();

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task AnAgent_CallsItsTool_WholeAndStreamed()
    {
        var agent = Agent(_tools.Weather);
        var response = await agent.RunAsync("How is the weather in Xentadal?", cancellationToken: Token);
        Assert.Equal("The weather in Xentadal is snowy, 23 degrees.", response.Text);
        Assert.True(response.Usage!.OutputTokenCount > 0);
        var streamed = await agent.RunStreamingAsync("How is the weather in Xentadal?", cancellationToken: Token).ToListAsync(Token);
        Assert.Equal(response.Text, string.Concat(streamed.Select(static u => u.Text)));
        Assert.Equal(["Xentadal", "Xentadal"], _tools.Calls);
    }

    [Fact]
    public async Task ASession_KeepsTheConversation_AlsoOverASave()
    {
        var agent = Agent(_tools.Weather, _tools.Price);
        var session = await agent.CreateSessionAsync(Token);
        await agent.RunAsync("How is the weather in Xentadal?", session, cancellationToken: Token);
        var saved = await agent.SerializeSessionAsync(session, cancellationToken: Token);
        Assert.Contains("Xentadal", saved.GetRawText(), StringComparison.Ordinal);
        var restored = await agent.DeserializeSessionAsync(JsonDocument.Parse(saved.GetRawText()).RootElement, cancellationToken: Token);

        var kept = await agent.RunAsync("Thank you", session, cancellationToken: Token);
        var afresh = await agent.RunAsync("Thank you", restored, cancellationToken: Token);
        Assert.Equal("You are welcome!", kept.Text);
        Assert.Equal(kept.Text, afresh.Text);
        // The prompt of a session that was read back is the same, token for token.
        Assert.Equal(kept.Usage!.InputTokenCount, afresh.Usage!.InputTokenCount);
        Assert.True(kept.Usage.InputTokenCount > (await agent.RunAsync("Thank you", cancellationToken: Token)).Usage!.InputTokenCount);
    }

    [Fact]
    public async Task AnAgent_IsATool_OfAnotherOne()
    {
        var inner = _model.Client.AsAIAgent(new ChatClientAgentOptions { Name = "weather", ChatOptions = CountedModel.Greedy(_tools.Weather) });
        var asked = new List<string>();
        var tool = AIFunctionFactory.Create(
            async (string location) =>
            {
                asked.Add(location);
                return new Dictionary<string, object> { ["temperature"] = 5, ["condition"] = (await inner.RunAsync($"How is the weather in {location}?", cancellationToken: Token)).Text.Contains("snowy", StringComparison.Ordinal) ? "snowy" : "rainy" };
            }, "get_weather", "Get the weather of a city.");
        var response = await Agent(tool).RunAsync("How is the weather in Xentadal?", cancellationToken: Token);
        Assert.Equal(asked, _tools.Calls);
        Assert.Equal("The weather in Xentadal is snowy, 5 degrees.", response.Text);

        var asFunction = inner.AsAIFunction();
        var result = await asFunction.InvokeAsync(new() { ["query"] = "How is the weather in Xentadal?" }, Token);
        Assert.Contains("snowy", result?.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task ATypedRun_ComesWithItsType()
    {
        var agent = _model.Client.AsAIAgent(new ChatClientAgentOptions { ChatOptions = new() { Temperature = 0, MaxOutputTokens = 200 } });
        var visit = (await agent.RunAsync<Visit>("Who are you?", cancellationToken: Token)).Result;
        Assert.NotNull(visit.City);
        Assert.InRange(visit.Days, 1, 30);
    }

    private ChatClientAgent Agent(params AITool[] tools) => _model.Client.AsAIAgent(new ChatClientAgentOptions { Name = "helper", Description = "Answers.", ChatOptions = CountedModel.Greedy(tools) });

    internal sealed record Visit(string City, [property: Range(1, 30)] int Days);
}
