namespace Ernie.Sdk.GpuTests;

internal static class SpeedPieces
{
    public static IReadOnlyList<Piece> All { get; } = [];
}
