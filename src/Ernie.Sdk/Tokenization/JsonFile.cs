using System.Text.Json;
using System.Text.Unicode;

namespace Ernie.Sdk.Tokenization;

/// <summary>The small JSON files beside a tokenizer.</summary>
internal static class JsonFile
{
    private const long MaximumBytes = 32 << 20;

    private static readonly JsonDocumentOptions _options = new() { AllowTrailingCommas = true, CommentHandling = JsonCommentHandling.Skip };

    /// <summary>The object in the file, or null if there is no such file.</summary>
    /// <exception cref="InvalidDataException">The file is too large, no JSON, or no object.</exception>
    public static JsonElement? TryReadObject(string folder, string name)
    {
        var path = Path.Combine(folder, name);
        var file = new FileInfo(path);
        if (!file.Exists) return null;
        if (file.Length > MaximumBytes) throw Invalid(path, $"it has {file.Length} bytes, more than the limit of {MaximumBytes}");
        try
        {
            ReadOnlyMemory<byte> bytes = File.ReadAllBytes(path);
            if (bytes.Span.StartsWith("\uFEFF"u8)) bytes = bytes[3..];
            // JsonDocument takes any bytes for a text and throws when the text is looked at.
            if (!Utf8.IsValid(bytes.Span)) throw Invalid(path, "it is no valid UTF-8");
            if (!HasWholeCharacters(bytes.Span)) throw Invalid(path, "a text in it has half a surrogate pair");
            using var document = JsonDocument.Parse(bytes, _options);
            if (document.RootElement.ValueKind != JsonValueKind.Object) throw Invalid(path, $"it holds {document.RootElement.ValueKind}, not an object");
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{path} cannot be used: it is no valid JSON ({error.Message}). Copy the file from the original checkpoint again.", error);
        }
    }

    public static InvalidDataException Invalid(string path, string finding) =>
        new($"{path} cannot be used: {finding}. Copy the file from the original checkpoint again.");

    public static string? AsText(JsonElement element) => element.ValueKind == JsonValueKind.String ? element.GetString() : null;

    /// <summary>JsonElement throws at each look at a text that is no valid UTF-16, so all are looked at once, here.</summary>
    private static bool HasWholeCharacters(ReadOnlySpan<byte> bytes)
    {
        var reader = new Utf8JsonReader(bytes, new JsonReaderOptions { AllowTrailingCommas = true, CommentHandling = JsonCommentHandling.Skip });
        try
        {
            while (reader.Read())
            {
                if (reader.TokenType is JsonTokenType.String or JsonTokenType.PropertyName && reader.ValueIsEscaped) _ = reader.GetString();
            }
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }
}
