namespace Ernie.Sdk.Engine;

/// <summary>Which tokens an answer may have. It belongs to one request; one thread at a time asks it before each token and tells it the one that was chosen.</summary>
internal abstract class TokenConstraint
{
    /// <summary>Fewest tokens that an answer can have from here, without the one that stops it.</summary>
    public abstract int TokensToEnd { get; }

    /// <summary>The tokens that may come, a bit each, where <paramref name="remaining"/> tokens are left of the answer. Valid until the next call; ids beyond it may not come.</summary>
    public abstract ReadOnlySpan<ulong> Allowed(int remaining);

    /// <summary>Takes the token that was chosen.</summary>
    public abstract void Advance(int token);
}
