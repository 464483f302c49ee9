namespace Ernie.Sdk;

/// <summary>How far the computation of a prompt has come.</summary>
/// <param name="ComputedTokens">Tokens of the prompt whose keys and values are in the cache, reused ones included.</param>
/// <param name="PromptTokens">Tokens of the prompt.</param>
/// <param name="CachedTokens">Tokens that were in the cache before: an earlier prompt began the same way.</param>
public readonly record struct ErniePrefillProgress(int ComputedTokens, int PromptTokens, int CachedTokens);
