using System.Text.Json;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>A call in an assistant's turn. Arguments are an object, or a string that already holds the object's JSON.</summary>
internal sealed record TemplateToolCall(string Name, JsonElement Arguments);
