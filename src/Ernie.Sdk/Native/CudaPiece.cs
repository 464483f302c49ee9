namespace Ernie.Sdk.Native;

internal enum CudaPieceState
{
    Present,
    Missing,
    /// <summary>There, but too old, too small or not allowed.</summary>
    Unfit,
}

/// <summary>One of the things that computing on a GPU needs.</summary>
/// <param name="Name">What it is.</param>
/// <param name="State">How it is.</param>
/// <param name="Found">What was found.</param>
/// <param name="LookedIn">Where it was looked for, if it was not found.</param>
/// <param name="Cure">What to do about it, if something must be done.</param>
internal sealed record CudaPiece(string Name, CudaPieceState State, string Found, string? LookedIn = null, string? Cure = null)
{
    public string Sentence => $"{Name}: {Found}{(LookedIn is null ? "" : $", looked for in {LookedIn}")}.{(Cure is null ? "" : $" {Cure}")}";
}
