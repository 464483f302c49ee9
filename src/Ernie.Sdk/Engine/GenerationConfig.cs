using System.Text.Json;

namespace Ernie.Sdk.Engine;

/// <summary>The defaults that a model's <c>generation_config.json</c> asks for.</summary>
internal sealed record GenerationConfig
{
    public const string FileName = "generation_config.json";
    private const long MaxBytes = 1 << 20;

    public bool? Sample { get; init; }
    public float? Temperature { get; init; }
    public float? TopP { get; init; }
    public int? TopK { get; init; }
    public float? RepetitionPenalty { get; init; }
    public int? MaxNewTokens { get; init; }
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Reads the file of a folder; without one there are no defaults.</summary>
    /// <exception cref="InvalidDataException">The file is no JSON object, or a value has the wrong type or range.</exception>
    public static GenerationConfig Read(string folder)
    {
        var path = Path.Combine(folder, FileName);
        var file = new FileInfo(path);
        if (!file.Exists) return new GenerationConfig();
        if (file.Length > MaxBytes) throw new InvalidDataException($"{path} has {file.Length} bytes; expected a small JSON object. Download the file again.");
        return Parse(File.ReadAllBytes(path), path);
    }

    public static GenerationConfig Parse(ReadOnlyMemory<byte> json, string path)
    {
        try
        {
            using var document = JsonDocument.Parse(json, new JsonDocumentOptions { MaxDepth = 32 });
            var root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object) throw new InvalidDataException($"{path} must hold a JSON object. Download the file again.");
            return new GenerationConfig
            {
                Sample = Get(root, "do_sample", static e => e.GetBoolean()),
                Temperature = Get(root, "temperature", static e => Finite(e, 0, 100)),
                TopP = Get(root, "top_p", static e => Finite(e, 0, 1)),
                TopK = Get(root, "top_k", static e => NonNegative(e)),
                RepetitionPenalty = Get(root, "repetition_penalty", static e => Finite(e, 1e-6f, 100)),
                MaxNewTokens = Get(root, "max_new_tokens", static e => NonNegative(e)),
                EosTokenIds = Ids(root),
            };
        }
        catch (Exception e) when (e is JsonException or FormatException or InvalidOperationException or OverflowException)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message} Correct or download the file again.", e);
        }
    }

    private static T? Get<T>(JsonElement root, string key, Func<JsonElement, T> read) where T : struct =>
        root.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null ? read(value) : null;

    private static float Finite(JsonElement value, float least, float most)
    {
        var number = value.GetSingle();
        return number >= least && number <= most ? number : throw new FormatException($"{number} does not lie between {least} and {most}.");
    }

    private static int NonNegative(JsonElement value)
    {
        var number = value.GetInt32();
        return number >= 0 ? number : throw new FormatException($"{number} is negative.");
    }

    private static IReadOnlyList<int> Ids(JsonElement root)
    {
        if (!root.TryGetProperty("eos_token_id", out var value)) return [];
        return value.ValueKind switch
        {
            JsonValueKind.Null => [],
            JsonValueKind.Array => [.. value.EnumerateArray().Select(NonNegative)],
            _ => [NonNegative(value)],
        };
    }
}
