using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

public sealed class ContextWindowTests
{
    private static readonly CancellationToken s_none = CancellationToken.None;

    [Fact]
    public void OldestTurnsGoFirst_SystemMessagesAndTheLastTurnStay()
    {
        var messages = Conversation(10);
        for (var context = 40; context < 400; context += 7)
        {
            var fitting = new ContextWindow(context, ErnieContextOverflow.DropOldestTurns, null).Fit(messages, 5, Count);
            if (Count(messages) <= context - 5)
            {
                Assert.Same(messages, fitting);
                continue;
            }
            Assert.InRange(Count(fitting), 1, context - 5);
            Assert.Equal(ChatRole.System, fitting[0].Role);
            Assert.Equal(ChatRole.User, fitting[1].Role);
            Assert.Equal(messages.Skip(messages.Count - fitting.Count + 1), fitting.Skip(1));
            // One more turn would not have fitted.
            var more = messages.Skip(messages.Count - fitting.Count - 2).Prepend(messages[0]).ToList();
            Assert.True(Count(more) > context - 5);
        }
    }

    [Fact]
    public void ALastTurnThatIsTooLong_IsRefusedWithCounts()
    {
        var error = Assert.Throws<ErnieContextOverflowException>(() => new ContextWindow(20, ErnieContextOverflow.DropOldestTurns, null).Fit(Conversation(4), null, Count));
        Assert.Equal((20, 19), (error.ContextLength, error.MaxPromptTokens));
        Assert.InRange(error.PromptTokens, 20, 60);
        Assert.Throws<ErnieContextOverflowException>(() => new ContextWindow(60, ErnieContextOverflow.Refuse, null).Fit(Conversation(4), null, Count));
    }

    [Fact]
    public void AHandler_DecidesInstead()
    {
        var messages = Conversation(10);
        ErnieOverflowingConversation? seen = null;
        var window = new ContextWindow(100, ErnieContextOverflow.Refuse, conversation =>
        {
            seen = conversation;
            return conversation.Messages.TakeLast(1);
        });
        Assert.Equal([messages[^1]], window.Fit(messages, null, Count));
        Assert.Equal((messages, Count(messages), 75), (seen!.Messages, seen.PromptTokens, seen.MaxPromptTokens));
        Assert.Throws<ErnieContextOverflowException>(() => new ContextWindow(100, ErnieContextOverflow.DropOldestTurns, static _ => null).Fit(messages, null, Count));
        Assert.Throws<ErnieContextOverflowException>(() => new ContextWindow(100, ErnieContextOverflow.DropOldestTurns, static c => c.Messages).Fit(messages, null, Count));
    }

    [Fact]
    public async Task AChatThatOutgrowsTheContext_GoesOnWithoutItsOldestTurns()
    {
        await using var model = await TinyModel.LoadAsync(static options => (options.ContextLength, options.ContextOverflow) = (200, ErnieContextOverflow.DropOldestTurns));
        var client = model.AsChatClient();
        var history = new List<ChatMessage>();
        for (var turn = 0; turn < 20; turn++)
        {
            history.Add(new ChatMessage(ChatRole.User, "What is the capital of Norway?"));
            var answer = await client.GetResponseAsync(history, new ChatOptions { Temperature = 0, MaxOutputTokens = 20 }, s_none);
            Assert.Contains("Oslo", answer.Text);
            Assert.InRange(answer.Usage!.InputTokenCount!.Value, 1, 180);
            history.AddMessages(answer);
        }
        await using var strict = await TinyModel.LoadAsync(static options => options.ContextLength = 200);
        var error = await Assert.ThrowsAsync<ErnieContextOverflowException>(() => strict.AsChatClient().GetResponseAsync(history, cancellationToken: s_none));
        Assert.Equal(200, error.ContextLength);
    }

    private static int Count(IReadOnlyList<ChatMessage> messages) => messages.Sum(static message => message.Text.Length);

    private static List<ChatMessage> Conversation(int turns)
    {
        List<ChatMessage> messages = [new(ChatRole.System, "0123456789")];
        for (var turn = 0; turn < turns; turn++)
        {
            messages.Add(new ChatMessage(ChatRole.User, new string('u', 10 + turn)));
            if (turn < turns - 1) messages.Add(new ChatMessage(ChatRole.Assistant, new string('a', 5 + turn % 3)));
        }
        return messages;
    }
}
