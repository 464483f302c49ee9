namespace Ernie.Sdk.Chat.Grammars;

/// <summary>What a schema's names of types come to: patterns and ranges of which types of .NET read all.</summary>
internal static class SchemaFormats
{
    public const string Base64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
    private const string Host = "[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,2}(\\.[a-z][a-z0-9]{0,19}(-[a-z0-9]{1,20}){0,2}){0,4}";
    private const string UriText = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})";

    /// <summary>Patterns of the formats of strings. Days end with the 28th: no month has fewer.</summary>
    public static IReadOnlyDictionary<string, string> Strings { get; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        // Without an offset, which TimeOnly does not read.
        ["time"] = "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7})?$",
        ["date"] = "^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$",
        ["date-time"] = "^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])$",
        ["uuid"] = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        ["uri"] = $"^(https?|wss?|ftp)://{Host}(:[1-9][0-9]{{0,3}})?(/({UriText}|/)*)?(\\?({UriText}|[/?])*)?(#({UriText}|[/?])*)?$|^mailto:[A-Za-z0-9]{{1,60}}([._+-][A-Za-z0-9]{{1,60}}){{0,3}}@{Host}$|^urn:[a-z0-9]{{2,20}}:{UriText}+$",
    };

    /// <summary>Patterns that Microsoft.Extensions.AI writes for types of .NET which do not read all that the patterns match.</summary>
    public static IReadOnlyDictionary<string, string> Patterns { get; } = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        // TimeSpan: up to 9,999,999 days; hours, minutes and seconds as a clock has them.
        ["^-?(\\d+\\.)?\\d{2}:\\d{2}:\\d{2}(\\.\\d{1,7})?$"] = "^-?(\\d{1,7}\\.)?([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,7})?$",
        // Version, whose numbers are integers of 32 bits.
        ["^\\d+(\\.\\d+){1,3}$"] = "^\\d{1,9}(\\.\\d{1,9}){1,3}$",
    };

    /// <summary>Ranges of the formats of integers.</summary>
    public static IReadOnlyDictionary<string, (decimal Least, decimal Most)> Integers { get; } = new Dictionary<string, (decimal Least, decimal Most)>(StringComparer.Ordinal)
    {
        ["int8"] = (sbyte.MinValue, sbyte.MaxValue),
        ["uint8"] = (byte.MinValue, byte.MaxValue),
        ["int16"] = (short.MinValue, short.MaxValue),
        ["uint16"] = (ushort.MinValue, ushort.MaxValue),
        ["int32"] = (int.MinValue, int.MaxValue),
        ["uint32"] = (uint.MinValue, uint.MaxValue),
        ["int64"] = (long.MinValue, long.MaxValue),
        ["uint64"] = (ulong.MinValue, ulong.MaxValue),
    };
}
