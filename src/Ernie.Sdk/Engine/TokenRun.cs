using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Positions [Start, End) of a context that are computed in one way. Where attention is sparse the way leaves its mark on keys and values: a token of a prompt chooses blocks together with the
/// others of its block, a decoded token by itself. So a context that has lost its cache is computed again run by run.
/// </summary>
internal readonly record struct TokenRun(int Start, int End, bool IsDecoded, SparseLimits Limits)
{
    /// <summary>Whether a position's keys and values are those of dense attention, in which case nobody can tell how they were computed.</summary>
    public bool IsDense(int position) => Limits.PrefillIsDense(position / KvBlockLayout.BlockSize) && (!IsDecoded || Limits.DecodeIsDense(position));
}
