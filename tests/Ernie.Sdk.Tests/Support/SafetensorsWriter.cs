using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A tensor for <see cref="SafetensorsWriter"/>, its data encoded.</summary>
internal sealed record EncodedTensor(string Name, string ElementType, long[] Shape, byte[] Data)
{
    /// <summary>Rounds to nearest even.</summary>
    public static EncodedTensor Of(string name, StoredType type, long[] shape, ReadOnlySpan<float> values) => type switch
    {
        StoredType.Float32 => new(name, "F32", shape, MemoryMarshal.AsBytes(values).ToArray()),
        StoredType.Float16 => new(name, "F16", shape, MemoryMarshal.AsBytes<Half>(Array.ConvertAll(values.ToArray(), static v => (Half)v)).ToArray()),
        _ => new(name, "BF16", shape, MemoryMarshal.AsBytes<ushort>(Array.ConvertAll(values.ToArray(), static v => (ushort)(BitConverter.SingleToUInt32Bits(GoldenWeights.RoundToBFloat16(v)) >> 16))).ToArray()),
    };

    /// <summary>What a reader must give back for <paramref name="value"/>.</summary>
    public static float Round(StoredType type, float value) => type switch
    {
        StoredType.Float32 => value,
        StoredType.Float16 => (float)(Half)value,
        _ => GoldenWeights.RoundToBFloat16(value),
    };
}

/// <summary>Writes safetensors files: header, then the tensors in order, without holes.</summary>
internal static class SafetensorsWriter
{
    public static void Write(string path, IEnumerable<EncodedTensor> tensors) => File.WriteAllBytes(path, ToBytes(tensors));

    public static byte[] ToBytes(IEnumerable<EncodedTensor> tensors)
    {
        var list = tensors.ToList();
        var header = Header(list);
        var file = new byte[8 + header.Length + list.Sum(static t => t.Data.Length)];
        BinaryPrimitives.WriteInt64LittleEndian(file, header.Length);
        header.CopyTo(file, 8);
        var at = 8 + header.Length;
        foreach (var tensor in list)
        {
            tensor.Data.CopyTo(file, at);
            at += tensor.Data.Length;
        }
        return file;
    }

    /// <summary>A file with any header and any data.</summary>
    public static byte[] ToBytes(string header, int dataLength)
    {
        var json = System.Text.Encoding.UTF8.GetBytes(header);
        var file = new byte[8 + json.Length + dataLength];
        BinaryPrimitives.WriteInt64LittleEndian(file, json.Length);
        json.CopyTo(file, 8);
        return file;
    }

    private static byte[] Header(List<EncodedTensor> tensors)
    {
        var json = new JsonObject { ["__metadata__"] = new JsonObject { ["format"] = "pt" } };
        long at = 0;
        foreach (var tensor in tensors)
        {
            json[tensor.Name] = new JsonObject
            {
                ["dtype"] = tensor.ElementType,
                ["shape"] = new JsonArray([.. tensor.Shape.Select(static s => (JsonNode)s)]),
                ["data_offsets"] = new JsonArray(at, at + tensor.Data.Length),
            };
            at += tensor.Data.Length;
        }
        return System.Text.Encoding.UTF8.GetBytes(json.ToJsonString());
    }
}
