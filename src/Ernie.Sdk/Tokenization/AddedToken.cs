namespace Ernie.Sdk.Tokenization;

/// <summary>A string that becomes one token wherever control tokens are allowed. Special ones can be left out when decoding.</summary>
internal sealed record AddedToken(int Id, string Content, bool IsSpecial);
