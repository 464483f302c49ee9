namespace Ernie.Sdk;

/// <summary>How likely a generated token was to the model itself, before penalties, temperature and truncation.</summary>
/// <remarks>
/// With the additional property <c>logprobs</c> set to true, updates and responses of a chat client have a list of these, one for each token, as their additional property <c>logprobs</c>.
/// </remarks>
/// <param name="TokenId">Id of the token.</param>
/// <param name="Token">Its text; that of a byte within a character is U+FFFD.</param>
/// <param name="LogProbability">Natural logarithm of its probability.</param>
/// <param name="Top">The likeliest tokens at its place, as many as <c>top_logprobs</c> says; empty for those themselves.</param>
public sealed record ErnieTokenLogProbability(int TokenId, string Token, float LogProbability, IReadOnlyList<ErnieTokenLogProbability> Top)
{
    /// <summary>Whether the token stands in the answer's text; not those of reasoning, calls, tags, and the one that ends it.</summary>
    internal bool IsAnswer { get; init; }
}
