using System.Text;
using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Fuzz;

/// <summary>Well-formed inputs: one tiny model in each layout, and configurations as Baidu and transformers write them.</summary>
internal static class FuzzSeeds
{
    public static byte[] TinyConfig { get; } = Bytes("""
        {"architectures":["Ernie4_5_MoeForCausalLM"],"model_type":"ernie4_5_moe","hidden_act":"silu","use_bias":false,"vocab_size":16,"hidden_size":8,"intermediate_size":12,
        "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"max_position_embeddings":4096,"rope_theta":500000.0,"rms_norm_eps":1e-05,
        "tie_word_embeddings":true,"moe_num_experts":2,"moe_k":1,"moe_intermediate_size":4,"moe_num_shared_experts":1,"moe_layer_start_index":1,"moe_layer_end_index":-1,
        "moe_layer_interval":1,"moe_norm_min":1e-12,"moe_use_aux_free":true,"moe_capacity":[8,8,8],"bos_token_id":1,"eos_token_id":[2,3],"pad_token_id":0,"torch_dtype":"bfloat16"}
        """);

    public static IReadOnlyList<byte[]> Configs { get; } =
    [
        TinyConfig,
        Bytes("""
            {"model_type":"ernie4_5_moe","dtype":"bfloat16","head_dim":null,"rope_parameters":{"rope_theta":500000.0,"rope_type":"default"},"rope_scaling":null,"vocab_size":16,"hidden_size":8,
            "intermediate_size":12,"num_hidden_layers":3,"remove_tail_layer":1,"num_attention_heads":2,"num_key_value_heads":1,"num_experts":2,"num_experts_per_tok":1,"moe_intermediate_size":4,
            "compression_ratio":1.0,"quantization_config":null,"moe_gate":"topk","moe_gate_act":"softmax","use_cache":true,"transformers_version":"5.24.0"}
            """),
        Bytes("""{"model_type":"ernie4_5","vocab_size":103424,"hidden_size":1024,"num_hidden_layers":18,"tie_word_embeddings":true,"eos_token_id":2}"""),
        Bytes("""{"model_type":"ernie4_5_moe","quantization_config":{"dense_quant_type":"wint8","moe_quant_type":"w4w2","quantization":"wint2"},"vision_config":{}}"""),
    ];

    public static IReadOnlyList<byte[]> Generations { get; } =
        [Bytes("""{"bos_token_id":1,"eos_token_id":[2,16],"pad_token_id":0,"do_sample":true,"temperature":0.8,"top_p":0.8,"top_k":0,"min_p":0.0,"repetition_penalty":1.0,"frequency_penalty":0.5,"presence_penalty":0,"max_new_tokens":256,"min_new_tokens":1}""")];

    /// <summary>As the exporter writes it for <see cref="TinyConfig"/>.</summary>
    public static IReadOnlyList<byte[]> Manifests { get; } = [Manifest()];

    public static IReadOnlyList<byte[]> Indexes { get; } =
    [
        Bytes("""{"metadata":{"total_size":123,"total_parameters":45},"weight_map":{"model.embed_tokens.weight":"model-00001-of-00002.safetensors","model.norm.weight":"model-00002-of-00002.safetensors","lm_head.weight":"model-00002-of-00002.safetensors"}}"""),
        Bytes("""{"weight_map":{"a":"../escape.safetensors","b":"/etc/passwd.safetensors","c":"\u0041.safetensors"}}"""),
    ];

    /// <summary>Split, fused experts, Paddle.</summary>
    public static IReadOnlyList<byte[]> Headers { get; } =
    [
        Header("model.", ("self_attn.q_proj.weight", [8, 8]), ("self_attn.k_proj.weight", [4, 8]), ("self_attn.v_proj.weight", [4, 8]), ("self_attn.o_proj.weight", [8, 8]),
            ("mlp.gate_proj.weight", [12, 8]), ("mlp.up_proj.weight", [12, 8]), ("mlp.down_proj.weight", [8, 12]), ("mlp.gate.weight", [2, 8]), ("mlp.moe_statics.e_score_correction_bias", [1, 2]),
            ("mlp.experts.0.gate_proj.weight", [4, 8]), ("mlp.experts.0.up_proj.weight", [4, 8]), ("mlp.experts.0.down_proj.weight", [8, 4]),
            ("mlp.experts.1.gate_proj.weight", [4, 8]), ("mlp.experts.1.up_proj.weight", [4, 8]), ("mlp.experts.1.down_proj.weight", [8, 4]),
            ("mlp.shared_experts.gate_proj.weight", [4, 8]), ("mlp.shared_experts.up_proj.weight", [4, 8]), ("mlp.shared_experts.down_proj.weight", [8, 4])),
        Header("", ("self_attn.qkv_proj.weight", [16, 8]), ("self_attn.o_proj.weight", [8, 8]), ("mlp.up_gate_proj.weight", [24, 8]), ("mlp.down_proj.weight", [8, 12]),
            ("mlp.gate.weight", [2, 8]), ("mlp.gate.moe_statics.e_score_correction_bias", [1, 2]), ("mlp.experts.gate_up_proj", [2, 8, 8]), ("mlp.experts.down_proj", [2, 8, 4]),
            ("mlp.shared_experts.gate_up_proj.weight", [8, 8]), ("mlp.shared_experts.down_proj.weight", [8, 4])),
        Header("ernie.", ("self_attn.qkv_proj.weight", [8, 16]), ("self_attn.o_proj.weight", [8, 8]), ("mlp.up_gate_proj.weight", [8, 24]), ("mlp.down_proj.weight", [12, 8]),
            ("mlp.gate.weight", [8, 2]), ("mlp.gate.e_score_correction_bias", [2]), ("mlp.experts.0.up_gate_proj.weight", [8, 8]), ("mlp.experts.0.down_proj.weight", [4, 8]),
            ("mlp.experts.1.up_gate_proj.weight", [8, 8]), ("mlp.experts.1.down_proj.weight", [4, 8]), ("mlp.shared_experts.up_gate_proj.weight", [8, 8]), ("mlp.shared_experts.down_proj.weight", [4, 8])),
    ];

    /// <summary>A quantised model: layer 0 dense and WINT8, layer 1 with experts in WINT4, layer 2 in WINT2.</summary>
    public static byte[] TwoBitsHeader { get; } = TwoBits();

    public static byte[] TwoBitsConfig { get; } = Bytes("""
        {"model_type":"ernie4_5_moe","vocab_size":16,"hidden_size":128,"intermediate_size":64,"num_hidden_layers":3,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":32,
        "max_position_embeddings":4096,"rope_theta":500000.0,"rms_norm_eps":1e-05,"tie_word_embeddings":true,"moe_num_experts":1,"moe_k":1,"moe_intermediate_size":128,
        "moe_num_shared_experts":1,"moe_layer_start_index":1,"bos_token_id":1,"eos_token_id":2,"pad_token_id":0,"dtype":"bfloat16",
        "quantization_config":{"dense_quant_type":"wint8","moe_quant_type":"w4w2","quantization":"wint2","is_permuted":true,"moe_quant_config":{"quant_type":"w4w2",
        "moe_w4_quant_config":{"quant_type":"wint4","quant_granularity":"per_channel","quant_start_layer":0,"quant_end_layer":1},
        "moe_w2_quant_config":{"quant_type":"wint2","quant_granularity":"pp_acc","quant_group_size":64,"quant_start_layer":2,"quant_end_layer":2}}}}
        """);

    /// <summary>Larger than any of <see cref="Headers"/> needs.</summary>
    public const long DataLength = 16_384;
    /// <summary>Larger than <see cref="TwoBitsHeader"/> needs.</summary>
    public const long TwoBitsDataLength = 1 << 20;

    private static byte[] Header(string prefix, params (string Name, long[] Shape)[] layer)
    {
        var json = new JsonObject();
        long at = 0;
        Add(json, $"{prefix}embed_tokens.weight", [16, 8], ref at);
        foreach (var number in new[] { 0, 1 })
        {
            Add(json, $"{prefix}layers.{number}.input_layernorm.weight", [8], ref at);
            Add(json, $"{prefix}layers.{number}.post_attention_layernorm.weight", [8], ref at);
            foreach (var (name, shape) in layer)
            {
                var isExpert = name.Contains("experts", StringComparison.Ordinal) || name.StartsWith("mlp.gate.", StringComparison.Ordinal) || name.Contains("statics", StringComparison.Ordinal);
                var isDense = name.StartsWith("mlp.", StringComparison.Ordinal) && !isExpert;
                if (number == 0 ? !isExpert : !isDense) Add(json, $"{prefix}layers.{number}.{name}", shape, ref at);
            }
        }
        Add(json, $"{prefix}norm.weight", [8], ref at);
        return Bytes(json.ToJsonString());
    }

    private static byte[] TwoBits()
    {
        const long hidden = 128, width = 128;
        var json = new JsonObject();
        long at = 0;
        Add(json, "ernie.embed_tokens.weight", [16, hidden], ref at);
        for (var layer = 0; layer < 3; layer++)
        {
            var stem = $"ernie.layers.{layer}";
            Add(json, $"{stem}.input_layernorm.weight", [hidden], ref at);
            Add(json, $"{stem}.post_attention_layernorm.weight", [hidden], ref at);
            Channels($"{stem}.self_attn.qkv_proj", 128, hidden, 1);
            Channels($"{stem}.self_attn.o_proj", hidden, 64, 1);
            if (layer == 0)
            {
                Channels($"{stem}.mlp.up_gate_proj", 128, hidden, 1);
                Channels($"{stem}.mlp.down_proj", hidden, 64, 1);
                continue;
            }
            Add(json, $"{stem}.mlp.gate.weight", [hidden, 1], ref at, "F32");
            Add(json, $"{stem}.mlp.moe_statics.e_score_correction_bias", [1, 1], ref at, "F32");
            Channels($"{stem}.mlp.shared_experts.up_gate_proj", 2 * width, hidden, 1);
            Channels($"{stem}.mlp.shared_experts.down_proj", hidden, width, 1);
            if (layer == 1)
            {
                Channels($"{stem}.mlp.experts.0.up_gate_proj", 2 * width, hidden, 2);
                Channels($"{stem}.mlp.experts.0.down_proj", hidden, width, 2);
                continue;
            }
            Wint2($"{stem}.mlp.experts.0.up_gate_proj", 2 * width, hidden);
            Wint2($"{stem}.mlp.experts.0.down_proj", hidden, width);
        }
        Add(json, "ernie.norm.weight", [hidden], ref at);
        return Bytes(json.ToJsonString());

        void Channels(string stem, long outputs, long inputs, long perByte)
        {
            Add(json, $"{stem}.quant_weight", [outputs / perByte, inputs], ref at, "I8");
            Add(json, $"{stem}.weight_scale", [outputs], ref at);
        }

        void Wint2(string stem, long outputs, long inputs)
        {
            Add(json, $"{stem}.quant_weight", [inputs / 4, outputs], ref at, "U8");
            Add(json, $"{stem}.weight_scale", [inputs / 128, outputs], ref at, "U8");
            Add(json, $"{stem}.super_scales", [outputs], ref at);
            Add(json, $"{stem}.code_scale", [outputs], ref at, "F32");
            Add(json, $"{stem}.code_zp", [outputs], ref at, "F32");
        }
    }

    private static void Add(JsonObject json, string name, long[] shape, ref long at, string type = "BF16")
    {
        var bytes = type switch { "F32" => 4, "BF16" => 2, _ => 1 };
        var end = at + bytes * shape.Aggregate(1L, static (a, b) => a * b);
        json[name] = new JsonObject
        {
            ["dtype"] = type,
            ["shape"] = new JsonArray([.. shape.Select(static s => (JsonNode)s)]),
            ["data_offsets"] = new JsonArray(at, end),
        };
        at = end;
    }

    private static byte[] Manifest()
    {
        var config = ErnieConfigReader.Parse(TinyConfig, "config.json", []);
        var formats = ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.Int4(64)) with { Exceptions = new Dictionary<string, WeightFormat> { [ErnieGraph.ExpertDown(1)] = WeightFormat.Int8(0) } };
        var graph = ErnieGraph.Build(config, formats);
        var plan = WeightFileWriter.Plan(graph.Weights);
        return new ModelManifest
        {
            FormatVersion = ModelManifest.CurrentVersion,
            Name = "tiny",
            Producer = "Ernie.Sdk 0.1.0",
            Formats = formats,
            DebugOutputs = false,
            Config = config,
            WeightBytes = plan.TotalBytes,
            Tensors = [.. graph.Weights.Select(w => new ManifestTensor(w.Name, w.Format, w.Shape, plan.Offsets[w.Name], w.Bytes, new string('0', 64)))],
            Files = [new ManifestFile(ModelManifest.ModelFile, 1000, new string('0', 64))],
        }.ToJson();
    }

    private static byte[] Bytes(string text) => Encoding.UTF8.GetBytes(text);
}
