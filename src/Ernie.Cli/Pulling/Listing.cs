using System.Text.Json;

namespace Ernie.Cli.Pulling;

/// <summary>Reads what a hub says about its files; nothing in it is taken on trust.</summary>
internal static class Listing
{
    public static JsonDocument Parse(byte[] json, string repository)
    {
        try
        {
            return JsonDocument.Parse(json, new JsonDocumentOptions { MaxDepth = 32 });
        }
        catch (JsonException e)
        {
            throw Invalid(repository, $"it is no JSON ({e.Message.TrimEnd('.')})");
        }
    }

    public static IEnumerable<JsonElement> Array(JsonElement element, string repository)
    {
        if (element.ValueKind != JsonValueKind.Array) throw Invalid(repository, "it is no array of files");
        foreach (var entry in element.EnumerateArray()) yield return entry.ValueKind == JsonValueKind.Object ? entry : throw Invalid(repository, "a file is no object");
    }

    public static string? Text(JsonElement entry, string key, string repository)
    {
        if (!entry.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null) return null;
        if (value.ValueKind != JsonValueKind.String) throw Invalid(repository, $"\"{key}\" is no string");
        try
        {
            return value.GetString();
        }
        catch (InvalidOperationException)
        {
            throw Invalid(repository, $"\"{key}\" is no valid text");
        }
    }

    public static long? Number(JsonElement entry, string key, string repository)
    {
        if (!entry.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null) return null;
        return value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out var number) && number >= 0 ? number : throw Invalid(repository, $"\"{key}\" is no number of bytes");
    }

    /// <summary>A hash in lower-case hexadecimal; an empty text is none.</summary>
    public static string? Hash(JsonElement entry, string key, int length, string repository)
    {
        if (Text(entry, key, repository) is not { Length: > 0 } text) return null;
        return text.Length == length && text.All(char.IsAsciiHexDigit) ? text.ToLowerInvariant() : throw Invalid(repository, $"\"{key}\" is no hash of {length} hexadecimal digits");
    }

    public static string Escape(string path) => string.Join('/', path.Split('/').Select(Uri.EscapeDataString));

    public static InvalidDataException Invalid(string repository, string what) => new($"The list of files of {repository} cannot be read: {what}. Is --base-url a server of the kind that --from says?");
}
