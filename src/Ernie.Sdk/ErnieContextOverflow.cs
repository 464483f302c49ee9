using Microsoft.Extensions.AI;

namespace Ernie.Sdk;

/// <summary>What a chat client does with a conversation that is too long for the context.</summary>
public enum ErnieContextOverflow
{
    /// <summary>It throws <see cref="ErnieContextOverflowException"/>, which tells the counts.</summary>
    Refuse,

    /// <summary>
    /// It leaves out the oldest turns: a user's message with everything up to the next one, calls of tools and their results included. System messages, instructions and tools stay, and the last turn does.
    /// </summary>
    DropOldestTurns,
}

/// <summary>A conversation that is too long, as <see cref="ErnieModelOptions.ContextOverflowHandler"/> gets it.</summary>
/// <param name="Messages">The conversation.</param>
/// <param name="PromptTokens">Tokens that it takes as a prompt.</param>
/// <param name="MaxPromptTokens">Tokens that a prompt may have beside its answer.</param>
public sealed record ErnieOverflowingConversation(IReadOnlyList<ChatMessage> Messages, int PromptTokens, int MaxPromptTokens);

/// <summary>A prompt leaves no room for an answer.</summary>
public sealed class ErnieContextOverflowException : ArgumentException
{
    internal ErnieContextOverflowException(int promptTokens, int maxPromptTokens, int contextLength)
        : base($"The prompt has {promptTokens} tokens; with a context of {contextLength} it may have at most {maxPromptTokens}. Shorten the prompt, let ErnieModelOptions.ContextOverflow drop old turns, or raise ContextLength and KvCacheBytes.") =>
        (PromptTokens, MaxPromptTokens, ContextLength) = (promptTokens, maxPromptTokens, contextLength);

    /// <summary>Gets the tokens of the prompt.</summary>
    public int PromptTokens { get; }

    /// <summary>Gets the most tokens that it might have had.</summary>
    public int MaxPromptTokens { get; }

    /// <summary>Gets the model's context.</summary>
    public int ContextLength { get; }
}
