using Microsoft.Extensions.AI;

namespace WebApi;

/// <summary>What was said so far: <c>{"messages": [{"role": "user", "text": "..."}]}</c>.</summary>
internal sealed record Conversation(Message[] Messages)
{
    public IEnumerable<ChatMessage> ToChat() => (Messages ?? []).Select(static message => new ChatMessage(new ChatRole(message.Role ?? ""), message.Text));
}

/// <summary>A message; its role is user, assistant or system.</summary>
internal sealed record Message(string? Role, string? Text);

/// <summary>The answer to one question.</summary>
internal sealed record Answer(string Text);
