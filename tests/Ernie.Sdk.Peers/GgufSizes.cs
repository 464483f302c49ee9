using System.Text;

namespace Ernie.Sdk.Peers;

/// <summary>What a decode step reads of a GGUF file, counted from its tensors: of routed experts the used share, of the embedding nothing unless it is the head as well.</summary>
internal sealed record GgufSizes(double BytesOfToken, double CacheBytesOfPosition)
{
    /// <exception cref="InvalidDataException">The file is no GGUF, or has tensor types this program does not know.</exception>
    public static GgufSizes Read(string path)
    {
        using var reader = new BinaryReader(File.OpenRead(path), Encoding.UTF8);
        if (reader.ReadUInt32() != 0x46554747 || reader.ReadUInt32() is not (2 or 3)) throw new InvalidDataException($"{path} is no GGUF file of version 2 or 3.");
        var tensors = reader.ReadInt64();
        var pairs = reader.ReadInt64();
        var numbers = new Dictionary<string, double>();
        for (long i = 0; i < pairs; i++)
        {
            var key = Text(reader);
            if (Value(reader, reader.ReadUInt32()) is { } number) numbers[key[(key.IndexOf('.', StringComparison.Ordinal) + 1)..]] = number;
        }
        var usedShare = numbers.TryGetValue("expert_count", out var count) ? numbers["expert_used_count"] / count : 1;
        double bytes = 0, embedding = 0;
        var hasHead = false;
        for (long i = 0; i < tensors; i++)
        {
            var name = Text(reader);
            double elements = 1;
            for (var d = reader.ReadUInt32(); d > 0; d--) elements *= reader.ReadUInt64();
            var size = elements * BytesOfWeight(reader.ReadUInt32(), path, name);
            reader.ReadUInt64();
            if (name == "token_embd.weight") embedding = size;
            else bytes += name.Contains("_exps.", StringComparison.Ordinal) ? size * usedShare : size;
            hasHead |= name == "output.weight";
        }
        // Keys and values are fp16.
        var headDim = numbers.TryGetValue("attention.key_length", out var length) ? length : numbers["embedding_length"] / numbers["attention.head_count"];
        return new GgufSizes(bytes + (hasHead ? 0 : embedding), 2 * 2 * numbers["block_count"] * numbers["attention.head_count_kv"] * headDim);
    }

    private static double BytesOfWeight(uint type, string path, string name) => type switch
    {
        0 => 4,
        1 or 30 => 2,
        2 => 18 / 32.0,
        3 => 20 / 32.0,
        6 => 22 / 32.0,
        7 => 24 / 32.0,
        8 => 34 / 32.0,
        12 => 144 / 256.0,
        13 => 176 / 256.0,
        14 => 210 / 256.0,
        _ => throw new InvalidDataException($"{path}: tensor {name} has type {type}, which this program does not know."),
    };

    private static string Text(BinaryReader reader) => Encoding.UTF8.GetString(reader.ReadBytes(checked((int)reader.ReadUInt64())));

    /// <summary>Reads a value; a number is returned.</summary>
    private static double? Value(BinaryReader reader, uint type)
    {
        switch (type)
        {
            case 0: return reader.ReadByte();
            case 1: return reader.ReadSByte();
            case 2: return reader.ReadUInt16();
            case 3: return reader.ReadInt16();
            case 4: return reader.ReadUInt32();
            case 5: return reader.ReadInt32();
            case 6: return reader.ReadSingle();
            case 7: return reader.ReadByte();
            case 8:
                Text(reader);
                return null;
            case 9:
                var element = reader.ReadUInt32();
                for (var left = reader.ReadUInt64(); left > 0; left--) Value(reader, element);
                return null;
            case 10: return reader.ReadUInt64();
            case 11: return reader.ReadInt64();
            default: return reader.ReadDouble();
        }
    }
}
