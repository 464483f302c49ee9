namespace Ernie.Sdk.Checkpoints;

/// <summary>What is refused by name, with the cure, before anything else is read: a model that computes something else must not run as if it did not.</summary>
internal static class UnsupportedFeatures
{
    public const string FormatsRead = "Read are safetensors in bfloat16, float16 or float32 in the -Paddle, -PT and transformers v5 layouts, and -2Bits-Paddle (WINT8, WINT4 and WINT2) not cut for tensor parallelism; take the -Paddle or -PT repository of the same model.";

    private static readonly string[] SchemeKeys = ["quantization", "quant_method", "moe_quant_type", "dense_quant_type", "kv_cache_quant_type", "fmt"];

    public static void ThrowIfAny(JsonKeys keys)
    {
        RefuseVision(keys);
        RefuseQuantization(keys);
        RefuseScaledRope(keys, "rope_scaling");
        RefuseScaledRope(keys, "rope_parameters");
        RefuseFlag(keys, "use_bias", refused: true, "linears with biases");
        RefuseFlag(keys, "attention_bias", refused: true, "linears with biases");
        RefuseFlag(keys, "mlp_bias", refused: true, "linears with biases");
        RefuseFlag(keys, "use_rmsnorm", refused: false, "a norm other than RMSNorm");
        RefuseFlag(keys, "moe_norm_gate_logits", refused: false, "routing weights that are not renormalised");
        RefuseText(keys, "hidden_act", "silu");
        RefuseText(keys, "moe_gate_act", "softmax");
        RefuseNumber(keys, "scale_qk_coeff");
        RefuseNumber(keys, "partial_rotary_factor");
    }

    private static void RefuseVision(JsonKeys keys)
    {
        foreach (var key in (ReadOnlySpan<string>)["vision_config", "freq_allocation", "rope_3d"])
        {
            if (keys.Has(key) && keys.Raw(key) is not ("false" or "0")) throw Refused(keys, key, "a vision-language model; only the text models of ERNIE 4.5 are read");
        }
        foreach (var key in (ReadOnlySpan<string>)["moe_num_experts", "moe_intermediate_size", "moe_k", "moe_num_shared_experts", "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"])
        {
            if (keys.IsArray(key)) throw Refused(keys, key, "one value per modality, as vision-language models have; only the text models of ERNIE 4.5 are read");
        }
    }

    private static void RefuseQuantization(JsonKeys keys)
    {
        Wint2Config.Read(keys);
        const string other = "compression_config";
        if (keys.Has(other) && !keys.IsEmptyObject(other)) throw Quantised(keys, other);
    }

    /// <summary>For weights quantised in a way that is not read.</summary>
    public static NotSupportedException Quantised(JsonKeys keys, string key) =>
        new($"{keys.File}: '{key}' says that the weights are quantised in a way that is not read ({Scheme(keys, key)}). {FormatsRead}");

    private static string Scheme(JsonKeys keys, string key)
    {
        var raw = keys.Raw(key);
        if (!raw.StartsWith('{')) return raw;
        var config = keys.Child(key)!;
        var named = SchemeKeys.Where(config.Has).Select(name => $"{name} {config.Raw(name)}").ToList();
        var all = string.Join(", ", named);
        var known = all.Contains("w4a8", StringComparison.OrdinalIgnoreCase) ? "W4A8C8: "
            : all.Contains("fp8", StringComparison.OrdinalIgnoreCase) ? "FP8: " : "";
        return known + (named.Count > 0 ? all : "scheme not named");
    }

    private static void RefuseScaledRope(JsonKeys keys, string key)
    {
        if (!keys.Has(key)) return;
        if (keys.Child(key) is not { } rope) return;
        foreach (var typeKey in (ReadOnlySpan<string>)["rope_type", "type"])
        {
            if (rope.Text(typeKey) is { } type && type != "default") throw Refused(keys, $"{key}.{typeKey}", $"'{type}': rotary embeddings are computed unscaled (default) only");
        }
        foreach (var scale in (ReadOnlySpan<string>)["factor", "partial_rotary_factor"])
        {
            if (rope.Has(scale) && rope.Number(scale, double.MinValue, double.MaxValue) != 1) throw Refused(keys, $"{key}.{scale}", "scaled rotary embeddings; they are computed unscaled only");
        }
    }

    private static void RefuseFlag(JsonKeys keys, string key, bool refused, string meaning)
    {
        if (keys.Flag(key) == refused) throw Refused(keys, key, meaning);
    }

    private static void RefuseText(JsonKeys keys, string key, string only)
    {
        if (keys.Text(key) is { } value && value != only) throw Refused(keys, key, $"'{value}'; only '{only}' is computed");
    }

    private static void RefuseNumber(JsonKeys keys, string key)
    {
        if (keys.Has(key) && keys.Number(key, double.MinValue, double.MaxValue) != 1) throw Refused(keys, key, "a factor other than 1");
    }

    private static NotSupportedException Refused(JsonKeys keys, string key, string meaning) => new($"{keys.File}: '{key}' asks for what is not implemented: {meaning}.");
}
