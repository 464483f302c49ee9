namespace Ernie.Sdk.GpuTests;

internal static class BenchPieces
{
    public static IReadOnlyList<Piece> All { get; } = [];
}
