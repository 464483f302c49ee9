using Ernie.Sdk.Native;

namespace Ernie.Cli.Doctor;

/// <summary>What is there of CUDA. Nothing of it is needed.</summary>
internal static class GpuFindings
{
    /// <summary>Stands above the findings, so that nobody takes what is found for what is used.</summary>
    public const string Note = "Models run on the CPU unless a GPU is asked for; the CUDA kernels of this version have never run on one.";

    /// <summary>What loading a model on <see cref="Ernie.Sdk.ErnieDevice.Cuda"/> checks, but for the memory, which depends on the model.</summary>
    public static IEnumerable<Finding> All(CudaInstallation? installation = null) => (installation ?? CudaInstallation.Default).Pieces().Select(Of);

    private static Finding Of(CudaPiece piece) => new(
        piece.Name,
        piece.State switch { CudaPieceState.Present => FindingState.Fine, CudaPieceState.Missing => FindingState.Absent, _ => FindingState.Poor },
        piece.LookedIn is null ? piece.Found : $"{piece.Found}; looked for in {piece.LookedIn}",
        piece.Cure is null ? null : LibraryTerms.OfCommand(piece.Cure));
}
