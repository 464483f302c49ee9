using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Support;

/// <summary>How <see cref="TinyCheckpoint"/> spells and orients what it writes.</summary>
internal enum TinyLayout
{
    Split,
    /// <summary>As Split, names without <c>model.</c>.</summary>
    Unprefixed,
    FusedExperts,
    Paddle,
    /// <summary>q|k|v and gate|up fused, but [outputs, inputs], prefix <c>model.</c>, bias under <c>mlp.gate.</c> of shape [E].</summary>
    FusedRows,
    /// <summary>As FusedRows with prefix <c>ernie.</c>.</summary>
    FusedRowsErnie,
}

/// <summary>
/// A small random ERNIE checkpoint of any shape and layout. Weights are functions of seed and canonical name: norms 1 + 0.4 r, correction bias 0.2 r, router 6 r / √inputs, embedding 2 r,
/// other matrices 4 r / √inputs, with r of <see cref="GoldenRandom"/>; one seed gives one model in every layout.
/// </summary>
internal sealed record TinyCheckpoint
{
    public int Layers { get; init; } = 2;
    public int Hidden { get; init; } = 32;
    public int Heads { get; init; } = 4;
    public int KvHeads { get; init; } = 2;
    public int HeadDim { get; init; } = 8;
    public int Intermediate { get; init; } = 48;
    /// <summary>0 makes a dense model.</summary>
    public int Experts { get; init; }
    public int ExpertsPerToken { get; init; } = 2;
    public int ExpertIntermediate { get; init; } = 16;
    public int SharedExperts { get; init; }
    public int FirstMoeLayer { get; init; } = 1;
    public int MoeInterval { get; init; } = 1;
    public int Vocabulary { get; init; } = 64;
    public int ContextLength { get; init; } = 4096;
    public double RopeTheta { get; init; } = 500000;
    public bool Tied { get; init; } = true;
    public StoredType Type { get; init; } = StoredType.BFloat16;
    public StoredType RouterType { get; init; } = StoredType.Float32;
    public TinyLayout Layout { get; init; }
    /// <summary>More than one writes shards and an index.</summary>
    public int Shards { get; init; } = 1;
    public string Seed { get; init; } = "tiny/";

    private bool Transposed => Layout == TinyLayout.Paddle;
    private bool Fused => Layout is TinyLayout.Paddle or TinyLayout.FusedRows or TinyLayout.FusedRowsErnie;
    private string Prefix => Layout switch { TinyLayout.Unprefixed => "", TinyLayout.Paddle or TinyLayout.FusedRowsErnie => "ernie.", _ => "model." };
    private int QueryWidth => Heads * HeadDim;
    private int KeyWidth => KvHeads * HeadDim;

    public bool IsMoe(int layer) => Experts > 0 && layer >= FirstMoeLayer && (layer + 1) % MoeInterval == 0;

    /// <summary>Value of a weight before it is stored.</summary>
    public float[] Exact(string canonicalName, long rows, long columns)
    {
        var random = new GoldenRandom(Seed + canonicalName);
        var root = Math.Sqrt(columns);
        var values = new float[rows * columns];
        for (var i = 0; i < values.Length; i++)
        {
            var r = random.Value(i);
            values[i] = (float)(canonicalName.EndsWith("norm.weight", StringComparison.Ordinal) ? 1 + 0.4 * r
                : canonicalName.EndsWith("correction_bias", StringComparison.Ordinal) ? 0.2 * r
                : canonicalName.EndsWith("mlp.gate.weight", StringComparison.Ordinal) ? 6 * r / root
                : canonicalName == TensorNames.Embedding ? 2 * r
                : 4 * r / root);
        }
        return values;
    }

    /// <summary>Value of a weight as a reader must give it back.</summary>
    public float[] Stored(string canonicalName, long rows, long columns)
    {
        var type = canonicalName.EndsWith("correction_bias", StringComparison.Ordinal) || canonicalName.EndsWith("mlp.gate.weight", StringComparison.Ordinal) ? RouterType : Type;
        return Array.ConvertAll(Exact(canonicalName, rows, columns), value => EncodedTensor.Round(type, value));
    }

    /// <summary>Writes config.json and the weights; the callbacks may change both first.</summary>
    public void Write(string folder, Action<JsonObject>? editConfig = null, Action<List<EncodedTensor>>? editTensors = null)
    {
        Directory.CreateDirectory(folder);
        var config = ConfigJson();
        editConfig?.Invoke(config);
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        var tensors = Tensors();
        editTensors?.Invoke(tensors);
        if (Shards == 1)
        {
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
            return;
        }
        var map = new JsonObject();
        for (var shard = 0; shard < Shards; shard++)
        {
            var name = $"model-{shard + 1:D5}-of-{Shards:D5}.safetensors";
            var part = tensors.Where((_, i) => i * Shards / tensors.Count == shard).ToList();
            SafetensorsWriter.Write(Path.Combine(folder, name), part);
            foreach (var tensor in part) map[tensor.Name] = name;
        }
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), new JsonObject { ["metadata"] = new JsonObject(), ["weight_map"] = map }.ToJsonString());
    }

    public JsonObject ConfigJson()
    {
        var config = new JsonObject
        {
            ["model_type"] = Experts > 0 ? "ernie4_5_moe" : "ernie4_5", ["hidden_act"] = "silu", ["use_bias"] = false,
            ["vocab_size"] = Vocabulary, ["hidden_size"] = Hidden, ["intermediate_size"] = Intermediate, ["num_hidden_layers"] = Layers,
            ["num_attention_heads"] = Heads, ["num_key_value_heads"] = KvHeads, ["head_dim"] = HeadDim, ["max_position_embeddings"] = ContextLength,
            ["rope_theta"] = RopeTheta, ["rms_norm_eps"] = 1e-5, ["tie_word_embeddings"] = Tied, ["bos_token_id"] = 1, ["eos_token_id"] = 2, ["pad_token_id"] = 0,
        };
        if (Experts == 0) return config;
        config["moe_num_experts"] = Experts;
        config["moe_k"] = ExpertsPerToken;
        config["moe_intermediate_size"] = ExpertIntermediate;
        config["moe_num_shared_experts"] = SharedExperts;
        config["moe_layer_start_index"] = FirstMoeLayer;
        config["moe_layer_end_index"] = -1;
        config["moe_layer_interval"] = MoeInterval;
        return config;
    }

    public List<EncodedTensor> Tensors()
    {
        var tensors = new List<EncodedTensor> { Encode($"{Prefix}embed_tokens.weight", Type, [Vocabulary, Hidden], Exact(TensorNames.Embedding, Vocabulary, Hidden)) };
        for (var layer = 0; layer < Layers; layer++) AddLayer(tensors, layer);
        tensors.Add(Encode($"{Prefix}norm.weight", Type, [Hidden], Exact(TensorNames.FinalNorm, 1, Hidden)));
        if (!Tied) tensors.Add(Linear("lm_head.weight", Type, Vocabulary, Hidden, TensorNames.Head));
        return tensors;
    }

    private void AddLayer(List<EncodedTensor> tensors, int layer)
    {
        var stem = $"{Prefix}layers.{layer}";
        tensors.Add(Encode($"{stem}.input_layernorm.weight", Type, [Hidden], Exact(TensorNames.InputNorm(layer), 1, Hidden)));
        tensors.Add(Encode($"{stem}.post_attention_layernorm.weight", Type, [Hidden], Exact(TensorNames.PostAttentionNorm(layer), 1, Hidden)));
        var (q, k, v) = (Exact(TensorNames.Query(layer), QueryWidth, Hidden), Exact(TensorNames.Key(layer), KeyWidth, Hidden), Exact(TensorNames.Value(layer), KeyWidth, Hidden));
        if (Fused) tensors.Add(Linear($"{stem}.self_attn.qkv_proj.weight", Type, QueryWidth + 2 * KeyWidth, Hidden, [.. q, .. k, .. v]));
        else
        {
            tensors.Add(Linear($"{stem}.self_attn.q_proj.weight", Type, QueryWidth, Hidden, q));
            tensors.Add(Linear($"{stem}.self_attn.k_proj.weight", Type, KeyWidth, Hidden, k));
            tensors.Add(Linear($"{stem}.self_attn.v_proj.weight", Type, KeyWidth, Hidden, v));
        }
        tensors.Add(Linear($"{stem}.self_attn.o_proj.weight", Type, Hidden, QueryWidth, TensorNames.AttentionOutput(layer)));
        if (!IsMoe(layer))
        {
            AddMlp(tensors, $"{stem}.mlp", Intermediate, TensorNames.Gate(layer), TensorNames.Up(layer), TensorNames.Down(layer));
            return;
        }
        tensors.Add(Linear($"{stem}.mlp.gate.weight", RouterType, Experts, Hidden, TensorNames.Router(layer)));
        var (bias, shape) = Layout switch
        {
            TinyLayout.FusedExperts => ("mlp.gate.moe_statics", new long[] { 1, Experts }),
            TinyLayout.FusedRows or TinyLayout.FusedRowsErnie => ("mlp.gate", [Experts]),
            _ => ("mlp.moe_statics", [1, Experts]),
        };
        tensors.Add(Encode($"{stem}.{bias}.e_score_correction_bias", RouterType, shape, Exact(TensorNames.CorrectionBias(layer), 1, Experts)));
        if (SharedExperts > 0)
        {
            AddMlp(tensors, $"{stem}.mlp.shared_experts", ExpertIntermediate * SharedExperts, TensorNames.SharedGate(layer), TensorNames.SharedUp(layer), TensorNames.SharedDown(layer));
        }
        if (Layout == TinyLayout.FusedExperts) AddStack(tensors, $"{stem}.mlp.experts", layer);
        else
        {
            for (var e = 0; e < Experts; e++)
            {
                AddMlp(tensors, $"{stem}.mlp.experts.{e}", ExpertIntermediate, TensorNames.ExpertGate(layer, e), TensorNames.ExpertUp(layer, e), TensorNames.ExpertDown(layer, e));
            }
        }
    }

    private void AddStack(List<EncodedTensor> tensors, string stem, int layer)
    {
        var (gateUp, down) = (new List<float>(), new List<float>());
        for (var e = 0; e < Experts; e++)
        {
            gateUp.AddRange(Exact(TensorNames.ExpertGate(layer, e), ExpertIntermediate, Hidden));
            gateUp.AddRange(Exact(TensorNames.ExpertUp(layer, e), ExpertIntermediate, Hidden));
            down.AddRange(Exact(TensorNames.ExpertDown(layer, e), Hidden, ExpertIntermediate));
        }
        tensors.Add(Encode($"{stem}.gate_up_proj", Type, [Experts, 2 * ExpertIntermediate, Hidden], [.. gateUp]));
        tensors.Add(Encode($"{stem}.down_proj", Type, [Experts, Hidden, ExpertIntermediate], [.. down]));
    }

    private void AddMlp(List<EncodedTensor> tensors, string stem, int width, string gate, string up, string down)
    {
        if (Fused) tensors.Add(Linear($"{stem}.up_gate_proj.weight", Type, 2 * width, Hidden, [.. Exact(gate, width, Hidden), .. Exact(up, width, Hidden)]));
        else
        {
            tensors.Add(Linear($"{stem}.gate_proj.weight", Type, width, Hidden, gate));
            tensors.Add(Linear($"{stem}.up_proj.weight", Type, width, Hidden, up));
        }
        tensors.Add(Linear($"{stem}.down_proj.weight", Type, Hidden, width, down));
    }

    private EncodedTensor Linear(string name, StoredType type, int outputs, int inputs, string canonicalName) => Linear(name, type, outputs, inputs, Exact(canonicalName, outputs, inputs));

    private EncodedTensor Linear(string name, StoredType type, int outputs, int inputs, float[] values)
    {
        if (!Transposed) return Encode(name, type, [outputs, inputs], values);
        var transposed = new float[values.Length];
        for (var o = 0; o < outputs; o++)
        {
            for (var i = 0; i < inputs; i++) transposed[i * outputs + o] = values[o * inputs + i];
        }
        return Encode(name, type, [inputs, outputs], transposed);
    }

    private static EncodedTensor Encode(string name, StoredType type, long[] shape, float[] values) => EncodedTensor.Of(name, type, shape, values);
}
