using System.Text.Json;
using System.Text.Unicode;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// The JSON header of a safetensors file, checked against the length of the data section. Every offset that leaves here lies inside the file, belongs to one tensor and
/// agrees with shape and element type.
/// </summary>
/// <remarks>
/// Holes between tensors and bytes after the last one are tolerated: nothing is read from them, and writers that align tensors leave some. Overlaps are refused.
/// </remarks>
internal static class SafetensorsHeader
{
    /// <summary>Limit of the safetensors library.</summary>
    public const long MaxBytes = 100_000_000;
    /// <summary>Arbitrary; ERNIE has three dimensions at most.</summary>
    private const int MaxRank = 8;
    private const string Cure = "Download the file again.";

    public static IReadOnlyList<SafetensorsEntry> Parse(ReadOnlySpan<byte> json, long dataLength, string file)
    {
        if (json.Length > MaxBytes) throw Invalid(file, $"header of {json.Length} bytes, more than the {MaxBytes} that the format allows");
        if (!Utf8.IsValid(json)) throw Invalid(file, "the header is not valid UTF-8");
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 16 });
        var entries = new List<SafetensorsEntry>();
        var names = new HashSet<string>(StringComparer.Ordinal);
        try
        {
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject) throw Invalid(file, "the header is not a JSON object");
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                var name = reader.GetString()!;
                reader.Read();
                if (!names.Add(name)) throw Invalid(file, $"tensor '{name}' is declared twice");
                if (name == "__metadata__") reader.Skip();
                else entries.Add(ParseEntry(ref reader, name, dataLength, file));
            }
            if (reader.Read()) throw Invalid(file, "there is more after the header's JSON object");
        }
        // Lone surrogates in escapes surface as InvalidOperationException from GetString.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{file}: the header is not valid JSON ({e.Message}). {Cure}", e);
        }
        CheckOverlap(entries, file);
        return entries;
    }

    private static SafetensorsEntry ParseEntry(ref Utf8JsonReader reader, string name, long dataLength, string file)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Invalid(file, $"tensor '{name}': expected an object, found {reader.TokenType}");
        string? elementType = null;
        long[]? shape = null, offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (reader.ValueTextEquals("dtype"u8))
            {
                reader.Read();
                if (elementType is not null || reader.TokenType != JsonTokenType.String) throw Invalid(file, $"tensor '{name}': expected one dtype, a string");
                elementType = reader.GetString();
            }
            else if (reader.ValueTextEquals("shape"u8)) shape = shape is null ? ParseIntegers(ref reader, MaxRank, name, "shape", file) : throw Twice("shape");
            else if (reader.ValueTextEquals("data_offsets"u8)) offsets = offsets is null ? ParseIntegers(ref reader, 2, name, "data_offsets", file) : throw Twice("data_offsets");
            else
            {
                reader.Read();
                reader.Skip();
            }
        }
        if (elementType is null || shape is null || offsets is not { Length: 2 }) throw Invalid(file, $"tensor '{name}': expected dtype, shape and two data_offsets");
        if (ElementBits(elementType) is not { } bits) throw Invalid(file, $"tensor '{name}': unknown dtype '{Shorten(elementType)}'");
        var entry = new SafetensorsEntry(name, elementType, shape, offsets[0], offsets[1]);
        if (entry.Begin > entry.End || entry.End > dataLength)
        {
            throw Invalid(file, $"tensor '{name}': data_offsets {entry.Begin}..{entry.End} do not lie in the {dataLength} bytes of data that the file holds (is it truncated?)");
        }
        if (ByteCount(shape, bits) is not { } bytes || bytes != entry.ByteLength)
        {
            throw Invalid(file, $"tensor '{name}': {entry.ShapeText} does not take the {entry.ByteLength} bytes of its data_offsets");
        }
        return entry;

        InvalidDataException Twice(string what) => Invalid(file, $"tensor '{name}': {what} is given twice");
    }

    private static long[] ParseIntegers(ref Utf8JsonReader reader, int max, string name, string what, string file)
    {
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartArray) throw Invalid(file, $"tensor '{name}': {what} is not an array");
        Span<long> values = stackalloc long[MaxRank];
        var count = 0;
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (count == max) throw Invalid(file, $"tensor '{name}': {what} has more than {max} numbers");
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out var value) || value < 0)
            {
                throw Invalid(file, $"tensor '{name}': {what} holds something other than whole numbers from 0");
            }
            values[count++] = value;
        }
        return values[..count].ToArray();
    }

    /// <summary>Null if the product leaves 63 bits or is no whole number of bytes.</summary>
    private static long? ByteCount(long[] shape, int bits)
    {
        // An empty tensor may carry any other dimension.
        if (shape.Contains(0)) return 0;
        Int128 total = bits;
        foreach (var size in shape)
        {
            total *= size;
            if (total > (Int128)long.MaxValue * 8) return null;
        }
        return total % 8 == 0 ? (long)(total / 8) : null;
    }

    private static void CheckOverlap(List<SafetensorsEntry> entries, string file)
    {
        var ordered = entries.Where(static e => e.ByteLength > 0).OrderBy(static e => e.Begin).ToArray();
        for (var i = 1; i < ordered.Length; i++)
        {
            if (ordered[i].Begin < ordered[i - 1].End) throw Invalid(file, $"tensors '{ordered[i - 1].Name}' and '{ordered[i].Name}' overlap");
        }
    }

    private static int? ElementBits(string elementType) => elementType switch
    {
        "F64" or "I64" or "U64" or "C64" => 64,
        "F32" or "I32" or "U32" => 32,
        "F16" or "BF16" or "I16" or "U16" => 16,
        "I8" or "U8" or "BOOL" or "F8_E4M3" or "F8_E5M2" or "F8_E8M0" => 8,
        "F6_E2M3" or "F6_E3M2" => 6,
        "F4" => 4,
        _ => null,
    };

    private static string Shorten(string text) => text.Length <= 40 ? text : text[..40] + "…";

    private static InvalidDataException Invalid(string file, string what) => new($"{file}: {what}. {Cure}");
}
