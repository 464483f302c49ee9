using System.Buffers.Binary;

namespace Ernie.Sdk.Tokenization;

/// <summary>Reads protobuf fields from untrusted bytes. Nothing is allocated; a length is checked against the bytes that are there.</summary>
internal ref struct ProtobufReader(ReadOnlySpan<byte> bytes, string fileName, int origin = 0)
{
    private readonly ReadOnlySpan<byte> _bytes = bytes;
    private int _position;

    /// <summary>Offset in the whole file of the next byte, for messages.</summary>
    public readonly int Offset => origin + _position;

    public bool TryReadField(out int field, out int wireType)
    {
        field = wireType = 0;
        if (_position == _bytes.Length) return false;
        var start = Offset;
        var tag = ReadVarint();
        if (tag is 0 or > uint.MaxValue || tag >> 3 == 0) throw Invalid($"no field begins at byte {start}");
        field = (int)(tag >> 3);
        wireType = (int)(tag & 7);
        return true;
    }

    public ulong ReadVarint()
    {
        ulong value = 0;
        for (var shift = 0; shift < 70; shift += 7)
        {
            if (_position == _bytes.Length) throw Invalid($"a number is cut off at byte {Offset}");
            var b = _bytes[_position++];
            if (shift == 63 && b > 1) break;
            value |= (ulong)(b & 0x7F) << shift;
            if (b < 0x80) return value;
        }
        throw Invalid($"a number longer than 64 bits ends at byte {Offset}");
    }

    public ulong ReadVarint(int wireType)
    {
        Expect(wireType, 0);
        return ReadVarint();
    }

    /// <summary>Protobuf writes a negative int32 as ten bytes; the low half is the value.</summary>
    public int ReadInt32(int wireType) => unchecked((int)ReadVarint(wireType));

    public bool ReadBoolean(int wireType) => ReadVarint(wireType) != 0;

    public float ReadFloat(int wireType)
    {
        Expect(wireType, 5);
        return BinaryPrimitives.ReadSingleLittleEndian(Take(4));
    }

    public ReadOnlySpan<byte> ReadBytes(int wireType)
    {
        Expect(wireType, 2);
        var start = Offset;
        var length = ReadVarint();
        if (length > (ulong)(_bytes.Length - _position)) throw Invalid($"the length {length} at byte {start} reaches beyond the end");
        return Take((int)length);
    }

    public ProtobufReader ReadMessage(int wireType)
    {
        var body = ReadBytes(wireType);
        return new ProtobufReader(body, fileName, Offset - body.Length);
    }

    public void Skip(int wireType)
    {
        switch (wireType)
        {
            case 0: ReadVarint(); break;
            case 1: Take(8); break;
            case 2: ReadBytes(wireType); break;
            case 5: Take(4); break;
            default: throw Invalid($"the wire type {wireType} before byte {Offset} does not exist in this format");
        }
    }

    public readonly InvalidDataException Invalid(string finding) => SentencePieceModel.Invalid(fileName, finding);

    private readonly void Expect(int actual, int expected)
    {
        if (actual != expected) throw Invalid($"a field before byte {Offset} has wire type {actual} instead of {expected}");
    }

    private ReadOnlySpan<byte> Take(int count)
    {
        if (count > _bytes.Length - _position) throw Invalid($"a value is cut off at byte {origin + _bytes.Length}");
        var taken = _bytes.Slice(_position, count);
        _position += count;
        return taken;
    }
}
