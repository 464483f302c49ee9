namespace Ernie.Sdk.GpuTests;

internal static class ModelPieces
{
    public static IReadOnlyList<Piece> All { get; } = [];
}
