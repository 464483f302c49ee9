using Ernie.Sdk;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli;

/// <summary>A released architecture with fewer layers.</summary>
internal static class SyntheticShape
{
    public static readonly string[] Names = ["0.3b", "21b", "300b"];

    public static ErnieRelease ReleaseOf(string name) => name switch
    {
        "0.3b" => ErnieRelease.Small03B,
        "21b" => ErnieRelease.Medium21B,
        _ => ErnieRelease.Large300B,
    };

    /// <summary>
    /// The first <paramref name="layers"/> layers of a released model. Where none of them is a mixture of experts in a model that has such layers, the last one is made one,
    /// so that even one layer has the operators of the whole model.
    /// </summary>
    public static ErnieConfig Of(string name, int? layers)
    {
        var config = ReleasedShapes.Of(ReleaseOf(name));
        if (layers is not { } count) return config;
        var moe = config.MoeLayers.Take(count).ToArray();
        if (config.MoeLayerCount > 0 && !moe.Contains(true)) moe[^1] = true;
        return config with { LayerCount = count, MoeLayers = moe };
    }
}
