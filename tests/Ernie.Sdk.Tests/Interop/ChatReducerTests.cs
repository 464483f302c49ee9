using Microsoft.Extensions.AI;

#pragma warning disable MEAI001 // Reducers are still experimental there.

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Microsoft.Extensions.AI shortens conversations before the shipped model reads them.</summary>
public sealed class ChatReducerTests : IAsyncLifetime
{
    private CountedModel _model = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _model = await CountedModel.LoadAsync();

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task ACountingReducer_KeepsTheSystemTextAndTheLastMessages()
    {
        var messages = Conversation();
        var whole = await _model.Client.GetResponseAsync(messages, CountedModel.Greedy(), Token);
        using var client = _model.Client.AsBuilder().UseChatReducer(new MessageCountingChatReducer(1)).Build();
        foreach (var isStreaming in new[] { false, true })
        {
            var response = isStreaming
                ? (await client.GetStreamingResponseAsync(messages, CountedModel.Greedy(), Token).ToListAsync(Token)).ToChatResponse()
                : await client.GetResponseAsync(messages, CountedModel.Greedy(), Token);
            Assert.Equal("The capital of Norway is Oslo.", response.Text);
            Assert.Equal(await _model.Client.GetService<ErnieModel>()!.CountTokensAsync([messages[0], messages[^1]], cancellationToken: Token), response.Usage!.InputTokenCount);
            Assert.True(response.Usage.InputTokenCount < whole.Usage!.InputTokenCount);
        }
    }

    [Fact]
    public async Task ASummarisingReducer_AsksTheModelForTheSummary_AndTheModelTakesIt()
    {
        var seen = new List<IReadOnlyList<ChatMessage>>();
        using var client = _model.Client.AsBuilder()
            .UseChatReducer(new SummarizingChatReducer(_model.Client, targetCount: 1, threshold: 0))
            .Use((messages, options, next, cancellationToken) =>
            {
                seen.Add([.. messages]);
                return next(messages, options, cancellationToken);
            })
            .Build();
        var response = await client.GetResponseAsync(Conversation(), CountedModel.Greedy(), Token);
        var reduced = Assert.Single(seen);
        // System text, summary, question.
        Assert.Equal([ChatRole.System, ChatRole.Assistant, ChatRole.User], reduced.Select(static m => m.Role));
        Assert.NotEqual("", reduced[1].Text);
        Assert.NotEqual("", response.Text);
    }

    private static List<ChatMessage> Conversation() =>
    [
        new(ChatRole.System, "Be short and exact."),
        new(ChatRole.User, "Which day comes after Monday?"),
        new(ChatRole.Assistant, "Tuesday comes after Monday."),
        new(ChatRole.User, "What is 3 plus 15?"),
        new(ChatRole.Assistant, "3 + 15 = 18"),
        new(ChatRole.User, "What is the capital of Norway?"),
    ];
}
