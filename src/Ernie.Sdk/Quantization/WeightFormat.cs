using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Ernie.Sdk.Quantization;

internal enum WeightKind
{
    /// <summary>Row-major IEEE single.</summary>
    Float32,
    /// <summary>Row-major bfloat16, rounded to nearest even from wider sources.</summary>
    BFloat16,
    /// <summary>Panels of signed 8-bit integers.</summary>
    Int8,
    /// <summary>Panels of signed 4-bit integers.</summary>
    Int4,
    /// <summary>Panels of WINT2 bytes (<see cref="Wint2"/>): four inputs a byte, a 4-bit scale for 64 inputs.</summary>
    Int2,
}

/// <summary>
/// Byte format of a weight matrix [rows = outputs, columns = inputs] as the exporter writes and the kernels read it. Written as <c>fp32</c>, <c>bf16</c>, <c>int8/128</c>,
/// <c>int4/channel</c>, <c>int2</c>.
/// </summary>
/// <param name="Kind">Element type and order.</param>
/// <param name="Group">
/// Consecutive inputs of a row that share one scale; 0: the whole row does (FastDeploy's WINT8 and WINT4). The last group of a row is shorter where the group does not divide the columns.
/// </param>
[JsonConverter(typeof(WeightFormatJson))]
internal readonly record struct WeightFormat(WeightKind Kind, int Group)
{
    public static WeightFormat Float32 { get; } = new(WeightKind.Float32, 0);
    public static WeightFormat BFloat16 { get; } = new(WeightKind.BFloat16, 0);
    public static WeightFormat Int2 { get; } = new(WeightKind.Int2, Wint2.GroupSize);
    public static WeightFormat Int8(int group) => new(WeightKind.Int8, group);
    public static WeightFormat Int4(int group) => new(WeightKind.Int4, group);

    /// <summary>Group sizes that int8 and int4 may have, besides 0 for a whole row.</summary>
    public static IReadOnlyList<int> Groups { get; } = [32, 64, 128];

    /// <summary>Whether rows lie in panels (<see cref="PanelLayout"/>) instead of one after another.</summary>
    public bool IsPacked => Kind >= WeightKind.Int8;

    public bool IsValid => Kind switch
    {
        WeightKind.Float32 or WeightKind.BFloat16 => Group == 0,
        WeightKind.Int8 or WeightKind.Int4 => Group == 0 || Groups.Contains(Group),
        WeightKind.Int2 => Group == Wint2.GroupSize,
        _ => false,
    };

    /// <summary>Bytes of one row of a row-major format.</summary>
    public long RowBytes(long columns) => Kind switch
    {
        WeightKind.Float32 => checked(columns * 4),
        WeightKind.BFloat16 => checked(columns * 2),
        _ => throw new InvalidOperationException($"{this} lies in panels, not in rows."),
    };

    /// <summary>Bytes of a matrix of <paramref name="sections"/> runs of <paramref name="sectionRows"/> rows; in packed formats each run begins a new panel.</summary>
    public long Bytes(long sections, long sectionRows, long columns) => IsPacked
        ? checked(sections * PanelLayout.PanelCount(sectionRows) * new PanelLayout(this, columns).PanelBytes)
        : checked(sections * sectionRows * RowBytes(columns));

    public override string ToString() => Kind switch
    {
        WeightKind.Float32 => "fp32",
        WeightKind.BFloat16 => "bf16",
        WeightKind.Int2 => "int2",
        _ => $"{(Kind == WeightKind.Int8 ? "int8" : "int4")}/{(Group == 0 ? "channel" : Group.ToString(CultureInfo.InvariantCulture))}",
    };

    public static bool TryParse(string? text, out WeightFormat format)
    {
        foreach (var known in All)
        {
            if (known.ToString() != text) continue;
            format = known;
            return true;
        }
        format = default;
        return false;
    }

    /// <summary>Every format there is.</summary>
    public static IReadOnlyList<WeightFormat> All { get; } = [Float32, BFloat16, .. new[] { 0, 32, 64, 128 }.SelectMany(static group => new[] { Int8(group), Int4(group) }), Int2];
}

internal sealed class WeightFormatJson : JsonConverter<WeightFormat>
{
    public override WeightFormat Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        reader.TokenType == JsonTokenType.String && WeightFormat.TryParse(reader.GetString(), out var format) ? format : throw new JsonException("Unknown weight format.");

    public override void Write(Utf8JsonWriter writer, WeightFormat value, JsonSerializerOptions options) => writer.WriteStringValue(value.ToString());
}
