using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// <c>quantization_config</c> of a -2Bits-Paddle checkpoint, FastDeploy's scheme <c>wint2</c>: linears that every token uses in WINT8, routed experts of some layers in WINT4, of the others in WINT2.
/// </summary>
internal sealed record Wint2Config
{
    private const string Key = "quantization_config";

    /// <summary>Layers whose experts are WINT4; null where the file does not say.</summary>
    public LayerRange? Wint4Experts { get; private init; }
    /// <summary>Layers whose experts are WINT2; null where the file does not say.</summary>
    public LayerRange? Wint2Experts { get; private init; }

    /// <summary>What the key says about the experts of a layer; null if it says nothing, or both.</summary>
    public FastDeployFormat? FormatOfExperts(int layer) => (Wint4Experts?.Contains(layer) == true, Wint2Experts?.Contains(layer) == true) switch
    {
        (true, false) => FastDeployFormat.Wint4,
        (false, true) => FastDeployFormat.Wint2,
        _ => null,
    };

    /// <summary>Null where <paramref name="keys"/>, a whole <c>config.json</c>, has no such key, or an empty one.</summary>
    /// <exception cref="NotSupportedException">The weights are quantised in another way.</exception>
    /// <exception cref="InvalidDataException">A value is of the wrong kind.</exception>
    public static Wint2Config? Read(JsonKeys keys, ICollection<string>? notes = null)
    {
        if (!keys.Has(Key) || keys.IsEmptyObject(Key)) return null;
        // Other schemes put text or a list here.
        if (!keys.IsObject(Key)) throw UnsupportedFeatures.Quantised(keys, Key);
        var config = keys.Child(Key)!;
        if (!config.IsText("quantization", "wint2")) throw UnsupportedFeatures.Quantised(keys, Key);

        Require(config, "dense_quant_type", "wint8");
        Require(config, "dense_quant_granularity", "per_channel");
        Require(config, "moe_quant_type", "w4w2");
        if (config.Has("kv_cache_quant_type")) throw Refused(config, "kv_cache_quant_type", "keys and values are cached in float32 or bfloat16");
        if (config.Flag("is_quantized") == false) throw Refused(config, "is_quantized", "weights that are yet to be quantised; take the -Paddle repository and export it");
        if (config.Flag("is_permuted") == false) throw Refused(config, "is_permuted", "integers are read in the byte order of GPU kernels only");
        var experts = config.Child("moe_quant_config");
        if (experts is not null) Require(experts, "quant_type", "w4w2");
        var (wint4, wint2) = (experts?.Child("moe_w4_quant_config"), experts?.Child("moe_w2_quant_config"));
        if (wint4 is not null)
        {
            Require(wint4, "quant_type", "wint4");
            Require(wint4, "quant_granularity", "per_channel");
        }
        if (wint2 is not null)
        {
            Require(wint2, "quant_type", "wint2");
            Require(wint2, "quant_granularity", "pp_acc");
            // FastDeploy takes an absent size for 0, and never looks at it.
            if (wint2.Integer("quant_group_size", 0, int.MaxValue) is not (null or 0 or Wint2.GroupSize)) throw Refused(wint2, "quant_group_size", $"WINT2 has groups of {Wint2.GroupSize}");
        }
        NoteOthers(config, ["quantization", "dense_quant_type", "dense_quant_granularity", "moe_quant_type", "kv_cache_quant_type", "is_quantized", "is_permuted", "moe_quant_config"], notes);
        return new Wint2Config { Wint4Experts = Range(wint4), Wint2Experts = Range(wint2) };
    }

    private static LayerRange? Range(JsonKeys? keys)
    {
        var first = (int?)keys?.Integer("quant_start_layer", 0, ErnieConfigLimits.Layers);
        var last = (int?)keys?.Integer("quant_end_layer", 0, ErnieConfigLimits.Layers);
        return first is { } f && last is { } l ? new LayerRange(f, l) : null;
    }

    private static void Require(JsonKeys keys, string key, string only)
    {
        if (keys.Text(key) is { } value && !value.Equals(only, StringComparison.OrdinalIgnoreCase)) throw Refused(keys, key, $"in a checkpoint of scheme wint2 it must be '{only}'");
    }

    private static void NoteOthers(JsonKeys config, string[] known, ICollection<string>? notes)
    {
        var others = config.Names.Where(name => !known.Contains(name)).ToList();
        // Rotated weights need rotated inputs.
        if (others.FirstOrDefault(static name => name.Contains("hadamard", StringComparison.OrdinalIgnoreCase)) is { } rotation) throw Refused(config, rotation, "rotated weights");
        if (others.Count > 0) notes?.Add($"{Key} has keys without a known meaning: {string.Join(", ", others.Take(5))}{(others.Count > 5 ? ", …" : "")}.");
    }

    private static NotSupportedException Refused(JsonKeys config, string key, string why) =>
        new($"{config.File}: '{config.PathOf(key)}' is {config.Raw(key)}: {why}. {UnsupportedFeatures.FormatsRead}");
}
