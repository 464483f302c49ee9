using System.Buffers.Binary;
using System.Text.Json;

namespace Ernie.Sdk.BrowserTests;

/// <summary>The tiny model that comes with the samples, and what becomes of it when it has lost its voice for ends.</summary>
internal static class Models
{
    private const int HiddenSize = 256;
    // </s> and <|im_end|>.
    private static readonly int[] s_stops = [2, 16];

    public static string Tiny { get; } = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");

    /// <summary>Makes a checkpoint that never ends an answer: embeddings are tied, so turning the rows of its stop tokens round makes them the least probable where they were the most.</summary>
    public static void WriteEndless(string folder)
    {
        Directory.CreateDirectory(folder);
        foreach (var file in Directory.GetFiles(Tiny)) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        var weights = Path.Combine(folder, "model.safetensors");
        var bytes = File.ReadAllBytes(weights);
        var header = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes);
        using var names = JsonDocument.Parse(bytes.AsMemory(8, header));
        var rows = 8 + header + names.RootElement.GetProperty("model.embed_tokens.weight").GetProperty("data_offsets")[0].GetInt32();
        foreach (var stop in s_stops)
        {
            // The sign of a bfloat16 is the highest bit of its second byte.
            for (var i = 0; i < HiddenSize; i++) bytes[rows + (((stop * HiddenSize) + i) * 2) + 1] ^= 0x80;
        }
        File.WriteAllBytes(weights, bytes);
        // The model's own limit of an answer is 256 tokens, which are written in a fraction of a second.
        var generation = Path.Combine(folder, "generation_config.json");
        File.WriteAllText(generation, File.ReadAllText(generation).Replace("\"max_new_tokens\": 256", "\"max_new_tokens\": 100000", StringComparison.Ordinal));
    }
}
