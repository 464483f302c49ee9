using System.Buffers.Binary;
using System.Text;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

/// <summary>Writes small SentencePiece files. Ids are given in the order of the calls.</summary>
internal sealed class SyntheticModel
{
    private readonly List<byte> _file = [];

    public int ModelType { get; init; } = 2;
    public bool ByteFallback { get; init; } = true;
    public bool SuffixMode { get; init; }
    public bool AddDummyPrefix { get; init; }
    public bool RemoveExtraWhitespaces { get; init; }
    public bool EscapeWhitespaces { get; init; } = true;
    public byte[] CharacterMap { get; init; } = [];

    /// <summary>The layout of ERNIE: unknown, two control pieces, digits, bytes; 269 pieces.</summary>
    public static SyntheticModel WithErnieLayout(bool addDummyPrefix = false, bool removeExtraWhitespaces = false)
    {
        var model = new SyntheticModel { AddDummyPrefix = addDummyPrefix, RemoveExtraWhitespaces = removeExtraWhitespaces };
        model.Piece("<unk>", 0, PieceType.Unknown).Piece("<s>", 0, PieceType.Control).Piece("</s>", 0, PieceType.Control);
        for (var digit = 0; digit < 10; digit++) model.Piece(digit.ToString(), 0, PieceType.UserDefined);
        return model.Bytes();
    }

    public SyntheticModel Piece(string text, float score = 0, PieceType type = PieceType.Normal) => Piece(Encoding.UTF8.GetBytes(text), score, (int)type);

    public SyntheticModel Piece(byte[] text, float score, int type)
    {
        var score4 = new byte[4];
        BinaryPrimitives.WriteSingleLittleEndian(score4, score);
        Field(_file, 1, [.. Delimited(1, text), 0x15, .. score4, 0x18, .. Varint((ulong)type)]);
        return this;
    }

    public SyntheticModel Bytes(int except = -1)
    {
        for (var value = 0; value < 256; value++)
        {
            if (value != except) Piece($"<0x{value:X2}>", 0, PieceType.Byte);
        }
        return this;
    }

    public byte[] ToArray()
    {
        List<byte> file = [.. _file];
        Field(file, 2, [0x18, .. Varint((ulong)ModelType), 0xC0, 0x01, SuffixMode ? (byte)1 : (byte)0, 0x98, 0x02, ByteFallback ? (byte)1 : (byte)0]);
        Field(file, 3, [.. Delimited(2, CharacterMap), 0x18, AddDummyPrefix ? (byte)1 : (byte)0, 0x20, RemoveExtraWhitespaces ? (byte)1 : (byte)0, 0x28, EscapeWhitespaces ? (byte)1 : (byte)0]);
        return [.. file];
    }

    public SentencePieceModel Parse() => SentencePieceModel.Parse(ToArray(), "synthetic.model");

    public static byte[] Varint(ulong value)
    {
        List<byte> bytes = [];
        for (; value >= 0x80; value >>= 7) bytes.Add((byte)(value | 0x80));
        return [.. bytes, (byte)value];
    }

    private static byte[] Delimited(int field, byte[] body) => [(byte)(field << 3 | 2), .. Varint((ulong)body.Length), .. body];

    private static void Field(List<byte> file, int field, byte[] body) => file.AddRange(Delimited(field, body));
}
