using System.Text;
using System.Text.Json.Nodes;
using CsCheck;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

public class ErnieConfigReaderTests
{
    private static readonly TinyCheckpoint Moe = new() { Layers = 4, Experts = 4 };

    [Fact]
    public void EmptyConfig_TakesTransformersDefaultsAndSaysSo()
    {
        var (config, notes) = Read(new JsonObject { ["model_type"] = "ernie4_5_moe" });
        Assert.Equal((103424, 2560, 12288, 28, 20, 4, 128), (config.VocabSize, config.HiddenSize, config.IntermediateSize, config.LayerCount, config.HeadCount, config.KvHeadCount, config.HeadDim));
        Assert.Equal((64, 6, 1536, 2, 27), (config.ExpertCount, config.ExpertsPerToken, config.ExpertIntermediateSize, config.SharedExpertCount, config.MoeLayerCount));
        Assert.Equal((131072, 500000.0, 1e-5f, 1e-12f, 1.0, true), (config.ContextLength, config.RopeTheta, config.RmsNormEps, config.RouterNormMin, config.CompressionRatio, config.TieWordEmbeddings));
        Assert.Equal((1, 0, 2), (config.BosTokenId, config.PadTokenId, config.EosTokenIds.Single()));
        foreach (var key in new[] { "vocab_size", "hidden_size", "rope_theta", "rms_norm_eps", "tie_word_embeddings", "moe_num_experts", "moe_k", "moe_num_shared_experts", "moe_layer_interval", "head_dim" })
        {
            Assert.Contains(notes, note => note.StartsWith(key, StringComparison.Ordinal));
        }
        Assert.Equal(128, Read(new JsonObject { ["model_type"] = "ernie4_5", ["hidden_size"] = 1024 }).Config.HeadDim);
    }

    [Theory]
    [InlineData("vocab_size", "0")]
    [InlineData("vocab_size", "-5")]
    [InlineData("vocab_size", "1e300")]
    [InlineData("hidden_size", "\"64\"")]
    [InlineData("hidden_size", "63.5")]
    [InlineData("hidden_size", "[64]")]
    [InlineData("num_hidden_layers", "0")]
    [InlineData("num_hidden_layers", "2000000000")]
    [InlineData("num_hidden_layers", "true")]
    [InlineData("num_attention_heads", "3")]
    [InlineData("num_key_value_heads", "3")]
    [InlineData("num_key_value_heads", "8")]
    [InlineData("num_key_value_heads", "0")]
    [InlineData("head_dim", "7")]
    [InlineData("head_dim", "0")]
    [InlineData("head_dim", "1073741824")]
    [InlineData("rope_theta", "0")]
    [InlineData("rope_theta", "-1")]
    [InlineData("rope_theta", "1e300")]
    [InlineData("rope_theta", "\"big\"")]
    [InlineData("rms_norm_eps", "0")]
    [InlineData("rms_norm_eps", "-1e-5")]
    [InlineData("rms_norm_eps", "2")]
    [InlineData("compression_ratio", "0")]
    [InlineData("compression_ratio", "-2")]
    [InlineData("max_position_embeddings", "0")]
    [InlineData("max_position_embeddings", "99999999999")]
    [InlineData("tie_word_embeddings", "1")]
    [InlineData("tie_word_embeddings", "\"true\"")]
    [InlineData("eos_token_id", "[2, -1]")]
    [InlineData("eos_token_id", "64")]
    [InlineData("eos_token_id", "\"</s>\"")]
    [InlineData("bos_token_id", "64")]
    [InlineData("moe_k", "5")]
    [InlineData("moe_k", "0")]
    [InlineData("moe_num_experts", "0")]
    [InlineData("moe_num_experts", "100000000")]
    [InlineData("moe_intermediate_size", "0")]
    [InlineData("moe_num_shared_experts", "-1")]
    [InlineData("moe_layer_start_index", "-1")]
    [InlineData("moe_layer_end_index", "4")]
    [InlineData("moe_layer_end_index", "-2")]
    [InlineData("moe_layer_interval", "0")]
    [InlineData("moe_norm_min", "-1")]
    [InlineData("model_type", "5")]
    [InlineData("rope_parameters", "[]")]
    [InlineData("rope_parameters", """{"rope_theta":0}""")]
    [InlineData("remove_tail_layer", "4")]
    [InlineData("num_experts", "5")]
    public void SenselessValues_AreRefusedByKey(string key, string value)
    {
        var config = Moe.ConfigJson();
        config[key] = JsonNode.Parse(value);
        var e = Assert.Throws<InvalidDataException>(() => Read(config));
        Assert.StartsWith("config.json: '", e.Message, StringComparison.Ordinal);
        Assert.Contains(key switch { "num_attention_heads" => "num_key_value_heads", "num_experts" => "moe_num_experts", _ => key }, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("model_type", "\"llama\"", "llama")]
    [InlineData("model_type", "\"ernie4_5_moe_vl\"", "ernie4_5_moe_vl")]
    [InlineData("vision_config", "{\"depth\":32}", "vision")]
    [InlineData("rope_3d", "true", "vision")]
    [InlineData("freq_allocation", "20", "vision")]
    [InlineData("moe_num_experts", "[64,64]", "vision")]
    [InlineData("moe_intermediate_size", "[1536,512]", "vision")]
    [InlineData("rope_scaling", "{\"type\":\"linear\",\"factor\":2}", "linear")]
    [InlineData("rope_scaling", "{\"rope_type\":\"yarn\"}", "yarn")]
    [InlineData("rope_parameters", "{\"rope_theta\":10000,\"rope_type\":\"dynamic\"}", "dynamic")]
    [InlineData("rope_parameters", "{\"partial_rotary_factor\":0.5}", "partial_rotary_factor")]
    [InlineData("use_bias", "true", "bias")]
    [InlineData("hidden_act", "\"gelu\"", "gelu")]
    [InlineData("moe_gate_act", "\"sigmoid\"", "sigmoid")]
    [InlineData("use_rmsnorm", "false", "RMSNorm")]
    [InlineData("moe_norm_gate_logits", "false", "renormalised")]
    [InlineData("quantization_config", "{\"quantization\":\"wint4\"}", "wint4")]
    [InlineData("quantization_config", "\"wint2\"", "wint2")]
    [InlineData("quantization_config", "[]", "-2Bits-Paddle")]
    [InlineData("quantization_config", "{\"quantization\":{\"a\":\"wint2\"}}", "quantization")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"dense_quant_type\":\"wint4\"}", "dense_quant_type")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"dense_quant_granularity\":\"per_tensor\"}", "dense_quant_granularity")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_type\":\"w4a8\"}", "w4a8")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"kv_cache_quant_type\":\"int8\"}", "kv_cache_quant_type")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"is_quantized\":false}", "is_quantized")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"is_permuted\":false}", "byte order")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"hadamard_block_size\":128}", "rotated")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_config\":{\"quant_type\":\"w4afp8\"}}", "moe_quant_config.quant_type")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_config\":{\"moe_w4_quant_config\":{\"quant_granularity\":\"group\"}}}", "quant_granularity")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_config\":{\"moe_w2_quant_config\":{\"quant_type\":\"wint2.5\"}}}", "wint2.5")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_config\":{\"moe_w2_quant_config\":{\"quant_group_size\":128}}}", "quant_group_size")]
    [InlineData("compression_config", "{\"quant_method\":\"compressed-tensors\"}", "compressed-tensors")]
    [InlineData("quantization_config", "{\"quantization\":\"mix_quant\",\"moe_quant_type\":\"w4a8\"}", "W4A8C8")]
    [InlineData("quantization_config", "{\"quant_method\":\"fp8\"}", "FP8")]
    [InlineData("quantization_config", "{\"quant_method\":\"gptq\"}", "gptq")]
    public void OtherFeatures_AreRefusedByName(string key, string value, string name)
    {
        var config = Moe.ConfigJson();
        config[key] = JsonNode.Parse(value);
        var e = Assert.Throws<NotSupportedException>(() => Read(config));
        Assert.Contains(key, e.Message, StringComparison.Ordinal);
        Assert.Contains(name, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("rope_scaling", "null")]
    [InlineData("rope_scaling", "{\"rope_type\":\"default\"}")]
    [InlineData("quantization_config", "null")]
    [InlineData("quantization_config", "{}")]
    [InlineData("quantization_config", "{\"quantization\":\"wint2\",\"moe_quant_type\":\"w4w2\",\"is_permuted\":true}")]
    [InlineData("vision_config", "null")]
    [InlineData("rope_3d", "false")]
    [InlineData("moe_capacity", "[64,64,64]")]
    [InlineData("moe_gate", "\"topk_fused\"")]
    [InlineData("torch_dtype", "\"float8\"")]
    [InlineData("dtype", "\"float32\"")]
    [InlineData("moe_gate_act", "\"softmax\"")]
    [InlineData("rms_norm_eps", "1e-6")]
    [InlineData("rope_theta", "10000")]
    [InlineData("hidden_size", "32.0")]
    [InlineData("pad_token_id", "-1")]
    [InlineData("num_experts", "4")]
    [InlineData("fuse_rope", "true")]
    public void HarmlessKeys_AreAccepted(string key, string value)
    {
        var config = Moe.ConfigJson();
        config[key] = JsonNode.Parse(value);
        Read(config);
    }

    [Fact]
    public void RopeParameters_WinOverRopeTheta()
    {
        var config = Moe.ConfigJson();
        config["rope_parameters"] = new JsonObject { ["rope_theta"] = 12345.5, ["rope_type"] = "default" };
        var (read, notes) = Read(config);
        Assert.Equal(12345.5, read.RopeTheta);
        Assert.Contains(notes, note => note.Contains("rope_theta", StringComparison.Ordinal));
        config["rope_parameters"] = new JsonObject { ["rope_type"] = "default" };
        Assert.Equal(500000, Read(config).Config.RopeTheta);
    }

    [Fact]
    public void OtherSpellingsOfExpertKeys_AreRead()
    {
        var config = Moe.ConfigJson();
        config.Remove("moe_num_experts");
        config.Remove("moe_k");
        config["num_experts"] = 12;
        config["num_experts_per_tok"] = 3;
        var (read, _) = Read(config);
        Assert.Equal((12, 3), (read.ExpertCount, read.ExpertsPerToken));
    }

    [Theory]
    [InlineData(1, -1, 1, "0111")]
    [InlineData(0, -1, 1, "1111")]
    [InlineData(0, -1, 2, "0101")]
    [InlineData(1, 2, 1, "0110")]
    [InlineData(2, 3, 2, "0001")]
    [InlineData(4, -1, 1, "0000")]
    public void MoeLayers_FollowTransformersRule(int start, int end, int interval, string layers)
    {
        var config = Moe.ConfigJson();
        (config["moe_layer_start_index"], config["moe_layer_end_index"], config["moe_layer_interval"]) = (start, end, interval);
        Assert.Equal(layers, string.Concat(Read(config).Config.MoeLayers.Select(static moe => moe ? '1' : '0')));
    }

    [Fact]
    public void NullHeadDim_CountsAsAbsent()
    {
        var config = Moe.ConfigJson();
        config["head_dim"] = null;
        var (read, notes) = Read(config);
        Assert.Equal(8, read.HeadDim);
        Assert.Contains(notes, note => note.StartsWith("head_dim", StringComparison.Ordinal));
        config["num_attention_heads"] = 6;
        Assert.Contains("head_dim", Assert.Throws<InvalidDataException>(() => Read(config)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SizesThatOverflowTogether_AreRefused()
    {
        var config = Moe.ConfigJson();
        (config["hidden_size"], config["num_hidden_layers"], config["moe_num_experts"], config["moe_intermediate_size"]) = (16777216, 4096, 4096, 16777216);
        Assert.Contains("2^63", Assert.Throws<InvalidDataException>(() => Read(config)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void StopTokens_AreOneOrAList()
    {
        var config = Moe.ConfigJson();
        config["eos_token_id"] = new JsonArray(5, 6);
        Assert.Equal([5, 6], Read(config).Config.EosTokenIds);
        config["eos_token_id"] = 7;
        Assert.Equal([7], Read(config).Config.EosTokenIds);
    }

    [Theory]
    [InlineData("")]
    [InlineData("[1]")]
    [InlineData("{\"vocab_size\": NaN}")]
    [InlineData("{\"vocab_size\": 5")]
    [InlineData("{\"vocab_size\": 5, \"vocab_size\": 6}")]
    [InlineData("{\"model_type\": \"\\ud800\"}")]
    public void BrokenJson_IsRefused(string json) =>
        Assert.StartsWith("config.json: ", Assert.Throws<InvalidDataException>(() => ErnieConfigReader.Parse(Encoding.UTF8.GetBytes(json), "config.json", [])).Message, StringComparison.Ordinal);

    [Fact]
    public void AnyNumbers_AreReadOrRefused()
    {
        var keys = Moe.ConfigJson().Where(static pair => pair.Value?.GetValueKind() == System.Text.Json.JsonValueKind.Number).Select(static pair => pair.Key).ToArray();
        var value = Gen.OneOf(Gen.Int[-3, 70].Select(static i => (double)i), Gen.Double, Gen.OneOf(1e300, -1e300, 4294967296.0, 2147483648.0));
        Gen.Select(Gen.OneOf(keys), value).Array[1, 4].Sample(changes =>
        {
            var config = Moe.ConfigJson();
            foreach (var (key, number) in changes) config[key] = double.IsFinite(number) ? JsonValue.Create(number) : null;
            try
            {
                var (read, _) = Read(config);
                Assert.Equal(0, read.HeadCount % read.KvHeadCount);
                Assert.Equal(0, read.HeadDim % 2);
                Assert.InRange(read.ExpertsPerToken, 1, read.ExpertCount);
                Assert.True(read.QkvSize > 0 && read.RmsNormEps > 0 && read.RopeTheta >= 1);
            }
            catch (InvalidDataException) { }
        }, iter: 2000, threads: 1);
    }

    private static (ErnieConfig Config, List<string> Notes) Read(JsonObject config)
    {
        var notes = new List<string>();
        return (ErnieConfigReader.Parse(Encoding.UTF8.GetBytes(config.ToJsonString()), "config.json", notes), notes);
    }
}
