using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Chat;

/// <summary>Makes conversations fit the context, by the policy of <see cref="ErnieModelOptions"/>.</summary>
internal sealed class ContextWindow(int contextLength, ErnieContextOverflow policy, Func<ErnieOverflowingConversation, IEnumerable<ChatMessage>?>? handler)
{
    /// <summary>Room for an answer whose length the caller does not limit.</summary>
    private const int AnswerTokens = 1024;

    /// <summary>The conversation, or what the policy leaves of it.</summary>
    /// <param name="messages">What the caller sent.</param>
    /// <param name="answerTokens">Most tokens of the answer, where the caller limits it.</param>
    /// <param name="count">Tokens that a conversation takes as a prompt.</param>
    /// <exception cref="ErnieContextOverflowException">It is too long, and nothing may be dropped.</exception>
    public IReadOnlyList<ChatMessage> Fit(IReadOnlyList<ChatMessage> messages, int? answerTokens, Func<IReadOnlyList<ChatMessage>, int> count)
    {
        var most = contextLength - 1;
        // Who may drop something makes room for a whole answer, not for its first word.
        var room = Math.Clamp(contextLength - Math.Min(answerTokens ?? AnswerTokens, contextLength / 4), 1, most);
        var tokens = count(messages);
        if (tokens <= (policy == ErnieContextOverflow.Refuse && handler is null ? most : room)) return messages;
        if (handler is not null)
        {
            if (handler(new ErnieOverflowingConversation(messages, tokens, room)) is not { } shortened) throw new ErnieContextOverflowException(tokens, most, contextLength);
            messages = [.. shortened];
            tokens = count(messages);
            return tokens <= most ? messages : throw new ErnieContextOverflowException(tokens, most, contextLength);
        }
        if (policy == ErnieContextOverflow.Refuse) throw new ErnieContextOverflowException(tokens, most, contextLength);

        // A prompt shrinks with every turn that goes, so the least number of turns is found by halving.
        var turns = messages.Count(static message => message.Role == ChatRole.User);
        int kept = 0, dropped = turns - 1;
        while (kept < dropped)
        {
            var middle = (kept + dropped) / 2;
            if (count(Without(messages, middle)) <= room) dropped = middle;
            else kept = middle + 1;
        }
        messages = Without(messages, Math.Max(0, dropped));
        tokens = count(messages);
        return tokens <= most ? messages : throw new ErnieContextOverflowException(tokens, most, contextLength);
    }

    /// <summary>The messages without those before user message number <paramref name="turns"/>, but with all system messages.</summary>
    private static List<ChatMessage> Without(IReadOnlyList<ChatMessage> messages, int turns)
    {
        var kept = new List<ChatMessage>();
        var seen = 0;
        foreach (var message in messages)
        {
            if (message.Role == ChatRole.User) seen++;
            if (message.Role == ChatRole.System || turns == 0 || seen > turns) kept.Add(message);
        }
        return kept;
    }
}
