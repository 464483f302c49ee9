using System.Collections.Concurrent;
using System.IO.Pipelines;
using Microsoft.Extensions.AI;
using ModelContextProtocol;
using ModelContextProtocol.Client;
using ModelContextProtocol.Protocol;
using ModelContextProtocol.Server;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Tools of a server of the Model Context Protocol, called by the shipped model over the protocol's stream transport.</summary>
public sealed class ModelContextProtocolTests : IAsyncLifetime
{
    private readonly ConcurrentQueue<string> _calls = new();
    private readonly Pipe _toServer = new();
    private readonly Pipe _toClient = new();
    private CountedModel _model = null!;
    private McpServer _server = null!;
    private Task _serving = null!;
    private McpClient _mcp = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await CountedModel.LoadAsync();
        // What a method returns as a text goes over the wire as it is.
        var weather = McpServerTool.Create((string location) => Answer(location, """{"temperature": 23, "condition": "snowy"}"""), new() { Name = "get_weather", Description = "Get the weather of a city." });
        var price = McpServerTool.Create((string item) => Answer(item, """{"price": 383, "currency": "euros"}"""), new() { Name = "get_price", Description = "Get the price of an item." });
        var clock = McpServerTool.Create(string (string city) => throw new McpException($"{city} has no clock"), new() { Name = "clock", Description = "Get the local time of a city." });
        var sum = McpServerTool.Create(static (double x, double y) => x + y, new() { Name = "calculate_sum", Description = "Add two numbers." });
        var options = new McpServerOptions
        {
            ServerInfo = new Implementation { Name = "test", Version = "1" },
            ToolCollection = [weather, price, clock, sum],
        };
        _server = McpServer.Create(new StreamServerTransport(_toServer.Reader.AsStream(), _toClient.Writer.AsStream()), options);
        _serving = _server.RunAsync(CancellationToken.None);
        _mcp = await McpClient.CreateAsync(new StreamClientTransport(_toServer.Writer.AsStream(), _toClient.Reader.AsStream()), cancellationToken: Token);
    }

    public async ValueTask DisposeAsync()
    {
        await _mcp.DisposeAsync();
        await _server.DisposeAsync();
        await _serving;
        await _model.DisposeAsync();
    }

    [Theory]
    [InlineData("How is the weather in Xentadal?", "Xentadal", "snowy")]
    [InlineData("What is the price of bottles?", "bottles", "383")]
    public async Task ToolsOfTheServer_AreCalledByTheModel(string question, string argument, string answer)
    {
        var tools = await _mcp.ListToolsAsync(cancellationToken: Token);
        Assert.Equal(["calculate_sum", "clock", "get_price", "get_weather"], tools.Select(static t => t.Name).Order());
        using var client = _model.Client.AsBuilder().UseFunctionInvocation().Build();
        var response = await client.GetResponseAsync(question, CountedModel.Greedy([.. tools]), Token);
        Assert.Equal([argument], _calls);
        Assert.Contains(answer, response.Text, StringComparison.Ordinal);
        var streamed = await client.GetStreamingResponseAsync(question, CountedModel.Greedy([.. tools]), Token).ToListAsync(Token);
        Assert.Equal(response.Text, string.Concat(streamed.Select(static u => u.Text)));
    }

    [Fact]
    public async Task ARequiredTool_HasArgumentsOfItsSchema()
    {
        var options = CountedModel.Greedy([.. await _mcp.ListToolsAsync(cancellationToken: Token)]);
        (options.ToolMode, options.AllowMultipleToolCalls) = (ChatToolMode.RequireSpecific("get_price"), false);
        var response = await _model.Client.GetResponseAsync("Who are you?", options, Token);
        var call = Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>());
        Assert.Equal(["item"], call.Arguments!.Keys);
        await ((McpClientTool)options.Tools!.Single(static t => t.Name == "get_price")).InvokeAsync(new(call.Arguments), Token);
        Assert.Single(_calls);
    }

    [Fact]
    public async Task AFailureOfTheServer_GoesBackToTheModel()
    {
        using var client = _model.Client.AsBuilder().UseFunctionInvocation().Build();
        var response = await client.GetResponseAsync("Tell me the time in Seoul.", CountedModel.Greedy([.. await _mcp.ListToolsAsync(cancellationToken: Token)]), Token);
        var result = response.Messages.SelectMany(static m => m.Contents).OfType<FunctionResultContent>().First();
        Assert.Contains("Seoul has no clock", result.Result?.ToString(), StringComparison.Ordinal);
        Assert.Equal(ChatRole.Assistant, response.Messages[^1].Role);
    }

    private string Answer(string argument, string result)
    {
        _calls.Enqueue(argument);
        return result;
    }
}
