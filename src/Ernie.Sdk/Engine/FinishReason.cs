namespace Ernie.Sdk.Engine;

internal enum FinishReason
{
    /// <summary>The model ended its answer with a stop token.</summary>
    Stop,
    /// <summary>The token limit or the context is full.</summary>
    Length,
}

/// <summary>A token as it leaves the engine; the last one of a sequence says why it is the last.</summary>
/// <param name="Id">Token.</param>
/// <param name="Finish">Null, but for the last.</param>
/// <param name="CachedTokens">Prompt tokens that were in the cache already.</param>
/// <param name="Probabilities">How likely it was, where that was asked for.</param>
internal readonly record struct GeneratedToken(int Id, FinishReason? Finish, int CachedTokens, TokenProbabilities? Probabilities = null);
