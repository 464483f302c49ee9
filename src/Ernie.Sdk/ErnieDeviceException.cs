using Ernie.Sdk.Native;

namespace Ernie.Sdk;

/// <summary>A model cannot run on the device that <see cref="ErnieModelOptions.Device"/> asks for. The message says what is missing, where it was looked for, and what helps.</summary>
public sealed class ErnieDeviceException : PlatformNotSupportedException
{
    internal ErnieDeviceException(CudaPiece piece, Exception? inner = null) : base($"The model cannot run on a GPU. {piece.Sentence}", inner) => (Piece, Cure) = (piece.Name, piece.Cure ?? "");

    /// <summary>Gets the piece that is missing or does not fit, by the name that <c>ernie doctor</c> gives it.</summary>
    public string Piece { get; }

    /// <summary>Gets what to do about it.</summary>
    public string Cure { get; }
}
