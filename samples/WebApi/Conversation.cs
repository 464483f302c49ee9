using Microsoft.Extensions.AI;

namespace WebApi;

/// <summary>What was said so far: <c>{"messages": [{"role": "user", "text": "..."}]}</c>.</summary>
internal sealed record Conversation(Message?[]? Messages)
{
    /// <exception cref="ArgumentException">Something is missing; the message says what and where.</exception>
    public IReadOnlyList<ChatMessage> ToChat() =>
    [
        .. (Messages ?? throw new ArgumentException("The body has no 'messages'. An example: {\"messages\": [{\"role\": \"user\", \"text\": \"Who are you?\"}]}")).Select(static (message, i) => new ChatMessage(
            new ChatRole(message?.Role ?? throw new ArgumentException($"Message {i} has no 'role'.")), message.Text ?? message.Content ?? throw new ArgumentException($"Message {i} has no 'text'."))),
    ];
}

/// <summary>A message; its role is user, assistant or system. <see cref="Content"/> is what OpenAI's API calls the text.</summary>
internal sealed record Message(string? Role, string? Text, string? Content);

/// <summary>The answer to one question.</summary>
internal sealed record Answer(string Text);
