using System.Globalization;

namespace Ernie.Cli;

/// <summary>Byte counts for people, and from them.</summary>
internal static class Size
{
    private static readonly (string Unit, long Bytes)[] s_units =
    [
        ("TIB", 1L << 40), ("GIB", 1L << 30), ("MIB", 1L << 20), ("KIB", 1L << 10), ("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1),
    ];

    public static string Text(long bytes) => bytes switch
    {
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):F2} GiB"),
        >= 1L << 20 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):F1} MiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1024.0:F1} KiB"),
    };

    /// <summary>Reads <c>80GB</c> (10^9 bytes) or <c>1.5 GiB</c> (2^30 bytes); at least one byte. A number without a unit is none: who writes 8 hardly means eight bytes.</summary>
    public static bool TryParse(string text, out long bytes)
    {
        bytes = 0;
        var trimmed = text.Trim();
        var unit = Array.Find(s_units, unit => trimmed.EndsWith(unit.Unit, StringComparison.OrdinalIgnoreCase));
        if (unit.Unit is null || !decimal.TryParse(trimmed[..^unit.Unit.Length], NumberStyles.AllowDecimalPoint | NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture, out var number) || number <= 0 || number > long.MaxValue / (decimal)unit.Bytes) return false;
        bytes = (long)(number * unit.Bytes);
        return bytes > 0;
    }

    /// <exception cref="FormatException">The text is no size.</exception>
    public static long Parse(string text) => TryParse(text, out var bytes) ? bytes : throw new FormatException($"'{text}' is no size.");
}
