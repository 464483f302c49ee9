using System.Text.Json;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// Typed access to a JSON object from a checkpoint; a null counts as absent. Every complaint is an <see cref="InvalidDataException"/> that names file, key, what was expected and what was found.
/// </summary>
internal sealed class JsonKeys : IDisposable
{
    /// <summary>Arbitrary; a config.json has a few kilobytes.</summary>
    public const int MaxBytes = 16_000_000;
    private readonly JsonDocument? _document;
    private readonly JsonElement _root;
    private readonly string _path;

    private JsonKeys(string file, string path, JsonElement root, JsonDocument? document) => (File, _path, _root, _document) = (file, path, root, document);

    public string File { get; }

    public static JsonKeys Parse(ReadOnlySpan<byte> json, string file)
    {
        if (json.Length > MaxBytes) throw new InvalidDataException($"{file}: {json.Length} bytes, more than the {MaxBytes} allowed.");
        if (json.StartsWith("\uFEFF"u8)) json = json[3..];
        if (!System.Text.Unicode.Utf8.IsValid(json)) throw new InvalidDataException($"{file}: not valid UTF-8. Download the file again.");
        JsonDocument? document = null;
        try
        {
            document = JsonDocument.Parse(json.ToArray(), new JsonDocumentOptions { MaxDepth = 64, AllowDuplicateProperties = false });
            if (document.RootElement.ValueKind != JsonValueKind.Object) throw new InvalidDataException($"{file}: expected a JSON object, found {document.RootElement.ValueKind}.");
            return new JsonKeys(file, "", document.RootElement, document);
        }
        // InvalidOperationException: a lone surrogate in an escaped name.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            document?.Dispose();
            throw new InvalidDataException($"{file}: not valid JSON ({e.Message}). Download the file again.", e);
        }
        catch
        {
            document?.Dispose();
            throw;
        }
    }

    public bool Has(string key) => Value(key) is not null;

    public bool IsEmptyObject(string key) => Value(key) is { ValueKind: JsonValueKind.Object } value && !value.EnumerateObject().Any();

    public bool IsObject(string key) => Value(key) is { ValueKind: JsonValueKind.Object };

    /// <summary>Whether the value is this text, in any case of letters; other kinds of value are no complaint.</summary>
    public bool IsText(string key, string text) => Value(key) is { ValueKind: JsonValueKind.String } value && text.Equals(String(value), StringComparison.OrdinalIgnoreCase);

    public bool IsArray(string key) => Value(key) is { ValueKind: JsonValueKind.Array };

    public long? Integer(string key, long min, long max)
    {
        if (Value(key) is not { } value) return null;
        if (!IsInteger(value, out var number) || number < min || number > max) throw Invalid(key, $"a whole number from {min} to {max}", value);
        return number;
    }

    public double? Number(string key, double min, double max)
    {
        if (Value(key) is not { } value) return null;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetDouble(out var number) || !(number >= min && number <= max)) throw Invalid(key, $"a number from {min:R} to {max:R}", value);
        return number;
    }

    public bool? Flag(string key) => Value(key) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } value => throw Invalid(key, "true or false", value),
    };

    public string? Text(string key) => Value(key) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } value => String(value) ?? throw Invalid(key, "text", value),
        { } value => throw Invalid(key, "text", value),
    };

    /// <summary>One integer or a list of them; empty if absent.</summary>
    public IReadOnlyList<int> Integers(string key, int min, int max, int maxCount)
    {
        if (Value(key) is not { } value) return [];
        if (value.ValueKind != JsonValueKind.Array) return [(int)Integer(key, min, max)!.Value];
        if (value.GetArrayLength() > maxCount) throw Invalid(key, $"at most {maxCount} numbers", value);
        var list = new List<int>();
        foreach (var item in value.EnumerateArray())
        {
            if (!IsInteger(item, out var number) || number < min || number > max) throw Invalid(key, $"whole numbers from {min} to {max}", value);
            list.Add((int)number);
        }
        return list;
    }

    /// <summary>A nested object; null if absent.</summary>
    public JsonKeys? Child(string key) => Value(key) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Object } value => new JsonKeys(File, $"{_path}{key}.", value, null),
        { } value => throw Invalid(key, "an object", value),
    };

    /// <summary>Keys that are present, nulls included.</summary>
    public IEnumerable<string> Names => _root.EnumerateObject().Select(static property => property.Name);

    /// <summary>The key with those of the objects around it, for messages.</summary>
    public string PathOf(string key) => _path + key;

    /// <summary>The value as written, shortened, for messages.</summary>
    public string Raw(string key) => Value(key) is { } value ? Shorten(value) : "absent";

    public void Dispose() => _document?.Dispose();

    private JsonElement? Value(string key) => _root.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    /// <summary>Null for text that no string can hold (a lone surrogate in an escape).</summary>
    private static string? String(JsonElement value)
    {
        try { return value.GetString(); }
        catch (InvalidOperationException) { return null; }
    }

    private static bool IsInteger(JsonElement value, out long number)
    {
        number = 0;
        if (value.ValueKind != JsonValueKind.Number) return false;
        if (value.TryGetInt64(out number)) return true;
        // 131072.0 and 1e5 are whole numbers too; above 2^53 a double no longer tells.
        if (!value.TryGetDouble(out var real) || real != Math.Floor(real) || Math.Abs(real) > 1L << 53) return false;
        number = (long)real;
        return true;
    }

    private InvalidDataException Invalid(string key, string expected, JsonElement found) =>
        new($"{File}: '{PathOf(key)}' is {Shorten(found)}, expected {expected}. Correct the file, or download it again.");

    private static string Shorten(JsonElement value)
    {
        var text = value.GetRawText();
        return text.Length <= 60 ? text : text[..60] + "…";
    }
}
