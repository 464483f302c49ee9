using System.Text.Json;
using System.Text.Unicode;

namespace Ernie.Sdk.Checkpoints;

/// <summary><c>model.safetensors.index.json</c>: which shard holds which tensor.</summary>
internal static class ShardIndex
{
    public const string FileName = "model.safetensors.index.json";
    /// <summary>Arbitrary; the 300B model's index has about 2 MB.</summary>
    public const int MaxBytes = 100_000_000;

    /// <returns>Tensor name to plain file name.</returns>
    public static Dictionary<string, string> Parse(ReadOnlySpan<byte> json, string file)
    {
        if (json.Length > MaxBytes) throw Invalid(file, $"{json.Length} bytes, more than the {MaxBytes} allowed");
        if (!Utf8.IsValid(json)) throw Invalid(file, "not valid UTF-8");
        if (json.StartsWith("\uFEFF"u8)) json = json[3..];
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 16 });
        Dictionary<string, string>? map = null;
        try
        {
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject) throw Invalid(file, "not a JSON object");
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                var isMap = reader.ValueTextEquals("weight_map"u8);
                reader.Read();
                if (!isMap) reader.Skip();
                else if (map is null) map = ParseMap(ref reader, file);
                else throw Invalid(file, "weight_map is given twice");
            }
            if (reader.Read()) throw Invalid(file, "there is more after the JSON object");
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{file}: not valid JSON ({e.Message}). Download the file again.", e);
        }
        return map is { Count: > 0 } ? map : throw Invalid(file, "expected a weight_map with tensors, found none");
    }

    private static Dictionary<string, string> ParseMap(ref Utf8JsonReader reader, string file)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Invalid(file, "weight_map is not an object");
        var map = new Dictionary<string, string>(StringComparer.Ordinal);
        // Thousands of tensors name a few shards: one string for each shard.
        var shards = new Dictionary<string, string>(StringComparer.Ordinal);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var name = reader.GetString()!;
            reader.Read();
            if (reader.TokenType != JsonTokenType.String) throw Invalid(file, $"tensor '{name}': expected the name of a file");
            var shard = reader.GetString()!;
            if (!shards.TryGetValue(shard, out var known))
            {
                if (!IsPlainFileName(shard)) throw Invalid(file, $"tensor '{name}': '{shard}' is not the plain name of a .safetensors file in the same folder");
                shards.Add(shard, known = shard);
            }
            if (!map.TryAdd(name, known)) throw Invalid(file, $"tensor '{name}' is listed twice");
        }
        return map;
    }

    private static bool IsPlainFileName(string name) =>
        name.Length is > 12 and <= 255 && name.EndsWith(".safetensors", StringComparison.Ordinal) && name[0] != '.'
        && !name.Any(static c => c is '/' or '\\' or ':' or '*' or '?' or '"' or '<' or '>' or '|' || char.IsControl(c));

    private static InvalidDataException Invalid(string file, string what) => new($"{file}: {what}. Download the file again.");
}
