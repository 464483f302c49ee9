using System.Text.Json;

namespace Ernie.Sdk.Chat.Parsing;

/// <summary>A piece of a model's output. Neighbouring texts of a kind belong together.</summary>
internal abstract record OutputPart;

internal sealed record ReasoningPart(string Text) : OutputPart;

internal sealed record AnswerPart(string Text) : OutputPart;

/// <param name="Name">The tool.</param>
/// <param name="Arguments">A JSON object.</param>
/// <param name="Source">The call as the model wrote it, tags included.</param>
internal sealed record CallPart(string Name, JsonElement Arguments, string Source) : OutputPart;

/// <param name="Source">What the model wrote instead of a call, tags included.</param>
/// <param name="Reason">What is wrong with it.</param>
internal sealed record BrokenCallPart(string Source, string Reason) : OutputPart;
