using System.Globalization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>Takes <c>layers.N.rest</c> apart.</summary>
internal static class LayerNames
{
    public static bool TryParse(string stem, out int layer, out string rest)
    {
        layer = 0;
        rest = "";
        if (!stem.StartsWith("layers.", StringComparison.Ordinal)) return false;
        var dot = stem.IndexOf('.', 7);
        if (dot < 0 || !int.TryParse(stem.AsSpan(7, dot - 7), NumberStyles.None, CultureInfo.InvariantCulture, out layer)) return false;
        rest = stem[(dot + 1)..];
        return true;
    }
}
