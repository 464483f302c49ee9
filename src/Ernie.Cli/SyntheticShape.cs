using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli;

/// <summary>A released architecture with fewer layers.</summary>
internal static class SyntheticShape
{
    public static readonly string[] Names = ["0.3b", "21b", "300b"];

    /// <summary>
    /// The first <paramref name="layers"/> layers of a released model. Where none of them is a mixture of experts in a model that has such layers, the last one is made one,
    /// so that even one layer has the operators of the whole model.
    /// </summary>
    public static ErnieConfig Of(string name, int? layers)
    {
        var config = name switch
        {
            "0.3b" => ReleasedShapes.Small03B,
            "21b" => ReleasedShapes.Medium21B,
            _ => ReleasedShapes.Large300B,
        };
        if (layers is not { } count) return config;
        var moe = config.MoeLayers.Take(count).ToArray();
        if (config.MoeLayerCount > 0 && !moe.Contains(true)) moe[^1] = true;
        return config with { LayerCount = count, MoeLayers = moe };
    }
}
