using System.ClientModel;
using System.ClientModel.Primitives;
using System.Text.Json;
using OpenAI;
using OpenAI.Chat;
using OpenAI.Models;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>OpenAI's client for .NET against <c>ernie serve</c> in a process of its own. Cli/Serving has more, on a server within the tests' process.</summary>
public sealed class OpenAIDotNetClientTests(ServeProcess server) : IClassFixture<ServeProcess>
{
    private static readonly ChatTool s_weather = ChatTool.CreateFunctionTool("get_weather", "Get the weather of a city.", BinaryData.FromString("""{"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}"""));

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private ChatClient Chat => new(ServeProcess.ModelId, new ApiKeyCredential(ServeProcess.Key), Options());

    [Fact]
    public async Task AConversation_WithAToolAndItsResult_WholeAndStreamed()
    {
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, Tools = { s_weather } };
        var messages = new List<ChatMessage> { new SystemChatMessage("Be short and exact."), new UserChatMessage("How is the weather in Xentadal?") };
        ChatCompletion asked = await Chat.CompleteChatAsync(messages, options, Token);
        var call = Assert.Single(asked.ToolCalls);
        messages.Add(new AssistantChatMessage(asked));
        messages.Add(new ToolChatMessage(call.Id, """{"temperature": 23, "condition": "snowy"}"""));
        ChatCompletion answered = await Chat.CompleteChatAsync(messages, options, Token);
        Assert.Equal("The weather in Xentadal is snowy, 23 degrees.", answered.Content[0].Text);
        var text = "";
        await foreach (var update in Chat.CompleteChatStreamingAsync(messages, options, Token)) text += string.Concat(update.ContentUpdate.Select(static part => part.Text));
        Assert.Equal(answered.Content[0].Text, text);
        Assert.True(answered.Usage.InputTokenDetails.CachedTokenCount >= 0);
    }

    [Fact]
    public async Task ASchema_IsFollowed_WithTheProbabilitiesOfItsTokens()
    {
        var schema = BinaryData.FromString("""{"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "seen": {"type": "boolean"}}, "required": ["city", "seen"], "additionalProperties": false}""");
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 200, IncludeLogProbabilities = true, ResponseFormat = ChatResponseFormat.CreateJsonSchemaFormat("visit", schema, jsonSchemaIsStrict: true) };
        ChatCompletion completion = await Chat.CompleteChatAsync([new UserChatMessage("Thank you")], options, Token);
        using var visit = JsonDocument.Parse(completion.Content[0].Text);
        Assert.Equal(2, visit.RootElement.EnumerateObject().Count());
        Assert.Contains("city", string.Concat(completion.ContentTokenLogProbabilities.Select(static t => t.Token)), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Models_AreListed()
    {
        var models = new OpenAIModelClient(new ApiKeyCredential(ServeProcess.Key), Options());
        OpenAIModelCollection all = await models.GetModelsAsync(Token);
        Assert.Equal(ServeProcess.ModelId, Assert.Single(all).Id);
        OpenAIModel one = await models.GetModelAsync(ServeProcess.ModelId, Token);
        Assert.Equal("ernie-sdk", one.OwnedBy);
        Assert.Equal(404, (await Assert.ThrowsAsync<ClientResultException>(() => models.GetModelAsync("other", Token))).Status);
    }

    [Fact]
    public async Task Completions_GoThroughTheClientsPipeline()
    {
        // This client has no methods for them any more.
        var client = new OpenAIClient(new ApiKeyCredential(ServeProcess.Key), Options());
        using var message = client.Pipeline.CreateMessage();
        (message.Request.Method, message.Request.Uri) = ("POST", new Uri(server.Url, "v1/completions"));
        message.Request.Headers.Set("Content-Type", "application/json");
        message.Request.Headers.Set("Authorization", $"Bearer {ServeProcess.Key}");
        message.Request.Content = BinaryContent.Create(BinaryData.FromString("""{"prompt": "The clerk keeps the seal.", "temperature": 0, "max_tokens": 4}"""));
        await client.Pipeline.SendAsync(message);
        Assert.Equal(200, message.Response!.Status);
        using var answer = JsonDocument.Parse(message.Response.Content);
        Assert.Equal(4, answer.RootElement.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task Errors_HaveTheirStatusAndSayWhy()
    {
        var stranger = new ChatClient(ServeProcess.ModelId, new ApiKeyCredential("wrong"), Options());
        await AssertFailsAsync(401, "API key", () => stranger.CompleteChatAsync([new UserChatMessage("x")], null, Token));
        await AssertFailsAsync(404, ServeProcess.ModelId, () => new ChatClient("other", new ApiKeyCredential(ServeProcess.Key), Options()).CompleteChatAsync([new UserChatMessage("x")], null, Token));
        await AssertFailsAsync(400, "temperature", () => Chat.CompleteChatAsync([new UserChatMessage("x")], new ChatCompletionOptions { Temperature = 200 }, Token));
        await AssertFailsAsync(400, "image_url", () => Chat.CompleteChatAsync([new UserChatMessage(ChatMessageContentPart.CreateImagePart(new Uri("http://127.0.0.1/x.png")))], null, Token));
        // An error that comes before the stream has begun is one of the request.
        await AssertFailsAsync(400, "temperature", async () =>
        {
            await foreach (var _ in Chat.CompleteChatStreamingAsync([new UserChatMessage("x")], new ChatCompletionOptions { Temperature = 200 }, Token)) { }
        });
    }

    [Fact]
    public async Task AFullQueue_Is429_AndCancelledRequestsMakeRoom()
    {
        using var leaving = CancellationTokenSource.CreateLinkedTokenSource(Token);
        var endless = new ChatCompletionOptions { MaxOutputTokenCount = 20_000, LogitBiases = { [2] = -100, [16] = -100 } };
        await using var running = Chat.CompleteChatStreamingAsync([new UserChatMessage("Who are you?")], endless, leaving.Token).GetAsyncEnumerator(leaving.Token);
        Assert.True(await running.MoveNextAsync());
        // One is computed and one may wait: of three more, two find no place.
        var others = Enumerable.Range(0, 3).Select(_ => Chat.CompleteChatAsync([new UserChatMessage("Who are you?")], endless, leaving.Token)).ToList();
        for (var i = 0; i < 2; i++)
        {
            var refused = await Task.WhenAny(others);
            others.Remove(refused);
            Assert.Equal(429, (await Assert.ThrowsAsync<ClientResultException>(() => refused)).Status);
        }
        await leaving.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => others.Single());
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            while (await running.MoveNextAsync()) { }
        });
        // The client retries after what Retry-After says, so even at once this comes through.
        var patient = new ChatClient(ServeProcess.ModelId, new ApiKeyCredential(ServeProcess.Key), new OpenAIClientOptions { Endpoint = new Uri(server.Url, "v1") });
        ChatCompletion answer = await patient.CompleteChatAsync([new UserChatMessage("Thank you")], new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120 }, Token);
        Assert.Equal("You are welcome!", answer.Content[0].Text);
    }

    private static async Task AssertFailsAsync(int status, string word, Func<Task> request)
    {
        var failure = await Assert.ThrowsAsync<ClientResultException>(request);
        Assert.Equal(status, failure.Status);
        Assert.Contains(word, failure.Message, StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>Without retries: they would hide refusals.</summary>
    private OpenAIClientOptions Options() => new() { Endpoint = new Uri(server.Url, "v1"), RetryPolicy = new ClientRetryPolicy(0) };
}
