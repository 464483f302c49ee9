using System.Buffers.Binary;

namespace Ernie.Sdk.Fuzz;

/// <summary>Header and configuration of the sample model, where the repository's samples are at hand.</summary>
internal sealed record FuzzSample(byte[] Header, long DataLength, byte[] Config)
{
    public static FuzzSample? Find()
    {
        for (var folder = AppContext.BaseDirectory; folder is not null; folder = Path.GetDirectoryName(folder))
        {
            var model = Path.Combine(folder, "samples", "ernie-tiny-moe");
            if (!Directory.Exists(model)) continue;
            var file = File.ReadAllBytes(Path.Combine(model, "model.safetensors"));
            var length = (int)BinaryPrimitives.ReadInt64LittleEndian(file);
            return new FuzzSample(file[8..(8 + length)], file.Length - 8 - length, File.ReadAllBytes(Path.Combine(model, "config.json")));
        }
        return null;
    }
}
