namespace Ernie.Sdk.Chat.Templates;

/// <summary>
/// A message as chat templates know it. Roles are <c>system</c>, <c>user</c>, <c>assistant</c> and <c>tool</c>; others are dropped.
/// </summary>
internal sealed record TemplateMessage(string Role, string? Content, string? ReasoningContent = null, IReadOnlyList<TemplateToolCall>? ToolCalls = null);
