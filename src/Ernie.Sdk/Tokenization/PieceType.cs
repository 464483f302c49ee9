namespace Ernie.Sdk.Tokenization;

/// <summary>The types of a SentencePiece piece, with the numbers of its file format.</summary>
internal enum PieceType : byte
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}
