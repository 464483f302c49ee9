using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// <c>config.json</c> to <see cref="ErnieConfig"/>. An absent key is settled by tensor names and shapes where they say something, else it takes transformers' default; both leave a note.
/// A key that is present and contradicts the tensors is an error.
/// </summary>
internal sealed class ErnieConfigReader
{
    private readonly JsonKeys _keys;
    private readonly CheckpointFacts? _facts;
    private readonly ICollection<string> _notes;

    private ErnieConfigReader(JsonKeys keys, CheckpointFacts? facts, ICollection<string> notes) => (_keys, _facts, _notes) = (keys, facts, notes);

    /// <param name="json">Content of the file.</param>
    /// <param name="file">Its name, for messages.</param>
    /// <param name="notes">Receives what had to be decided.</param>
    /// <param name="facts">What the tensors say; null if there are none to ask.</param>
    /// <exception cref="InvalidDataException">A value is missing, senseless or contradicts the tensors.</exception>
    /// <exception cref="NotSupportedException">The model needs something that is not implemented.</exception>
    public static ErnieConfig Parse(ReadOnlySpan<byte> json, string file, ICollection<string> notes, CheckpointFacts? facts = null)
    {
        using var keys = JsonKeys.Parse(json, file);
        return new ErnieConfigReader(keys, facts, notes).Read();
    }

    private ErnieConfig Read()
    {
        UnsupportedFeatures.ThrowIfAny(_keys);
        var moe = ReadModelType();
        var vocabulary = Size("vocab_size", _facts?.VocabSize, 103424, 1, ErnieConfigLimits.Vocabulary);
        var hidden = Size("hidden_size", _facts?.HiddenSize, moe ? 2560 : 1024, 1, ErnieConfigLimits.Width);
        var layers = ReadLayerCount(moe);
        var heads = Size("num_attention_heads", null, moe ? 20 : 16, 1, ErnieConfigLimits.Heads);
        var (headDim, kvHeads) = ReadHeadDim(moe, hidden, heads);
        var config = new ErnieConfig
        {
            ModelType = moe ? "ernie4_5_moe" : "ernie4_5",
            VocabSize = vocabulary,
            HiddenSize = hidden,
            IntermediateSize = Size("intermediate_size", _facts?.IntermediateSize, moe ? 12288 : 3072, 1, ErnieConfigLimits.Width),
            LayerCount = layers,
            HeadCount = heads,
            KvHeadCount = kvHeads,
            HeadDim = headDim,
            ContextLength = Size("max_position_embeddings", null, 131072, 1, ErnieConfigLimits.ContextLength),
            RopeTheta = ReadRopeTheta(),
            CompressionRatio = _keys.Number("compression_ratio", 1e-6, 1e6) ?? 1,
            RmsNormEps = (float)Real("rms_norm_eps", 1e-5, 1e-30, 1),
            TieWordEmbeddings = ReadTied(),
            BosTokenId = Token("bos_token_id", 1, vocabulary),
            PadTokenId = Token("pad_token_id", 0, vocabulary),
            EosTokenIds = ReadStopTokens(vocabulary),
        };
        if (moe) config = ReadExperts(config);
        CheckTotal(config);
        return config;
    }

    // Each size alone may be plausible; whoever adds them up later must not overflow.
    private void CheckTotal(ErnieConfig config)
    {
        try
        {
            MemoryPlan.For(config, ModelFormats.Of(WeightFormat.Float32, WeightFormat.Float32), KvElementType.Float32, config.ContextLength);
        }
        catch (OverflowException e)
        {
            throw new InvalidDataException($"{_keys.File}: the sizes together make a model of more than 2^63 bytes. Correct the file, or download it again.", e);
        }
    }

    private bool ReadModelType()
    {
        var type = _keys.Text("model_type");
        var hasExperts = _facts is not null && _facts.MoeLayers.Contains(true);
        if (type is null)
        {
            Note("model_type", hasExperts ? "ernie4_5_moe, for there are experts" : "ernie4_5");
            return hasExperts;
        }
        if (type is not ("ernie4_5" or "ernie4_5_moe"))
        {
            throw new NotSupportedException($"{_keys.File}: 'model_type' is '{type}'. Read are ernie4_5 (dense) and ernie4_5_moe, the text models of ERNIE 4.5.");
        }
        if (type == "ernie4_5" && hasExperts) throw Contradiction("model_type", type, "the checkpoint holds experts (ernie4_5_moe)");
        return type == "ernie4_5_moe";
    }

    private int ReadLayerCount(bool moe)
    {
        // Baidu's training configurations count layers that the saved model does not have.
        var removed = _keys.Has("remove_tail_layer") ? _keys.Raw("remove_tail_layer") switch
        {
            "true" => 1,
            "false" => 0,
            _ => (int)_keys.Integer("remove_tail_layer", 0, ErnieConfigLimits.Layers - 1)!.Value,
        } : 0;
        if (removed == 0) return Size("num_hidden_layers", _facts?.LayerCount, moe ? 28 : 18, 1, ErnieConfigLimits.Layers);
        var declared = Size("num_hidden_layers", null, moe ? 28 : 18, 1, ErnieConfigLimits.Layers);
        var layers = declared - removed;
        if (layers < 1) throw Contradiction("remove_tail_layer", $"{removed}", $"num_hidden_layers is {declared}");
        if (_facts?.LayerCount is { } fact && fact.Value != layers) throw Contradiction("num_hidden_layers minus remove_tail_layer", $"{layers}", $"the last layer's tensors include {fact.Tensor}");
        _notes.Add($"remove_tail_layer {removed}: {layers} of {declared} layers.");
        return layers;
    }

    private (int HeadDim, int KvHeads) ReadHeadDim(bool moe, int hidden, int heads)
    {
        var kvHeads = Size("num_key_value_heads", null, moe ? 4 : 2, 1, ErnieConfigLimits.Heads);
        if (heads % kvHeads != 0) throw Contradiction("num_key_value_heads", $"{kvHeads}", $"num_attention_heads is {heads}, which is no multiple of it");
        var width = _facts?.QueryWidth ?? _facts?.QkvWidth;
        var parts = _facts?.QueryWidth is not null ? heads : checked(heads + 2 * kvHeads);
        SizeFact? fact = width is { } w && w.Value % parts == 0 ? w with { Value = w.Value / parts } : null;
        if (width is not null && fact is null) throw Contradiction("num_attention_heads", $"{heads}", $"the heads do not divide {width.Value.Tensor}");
        if (fact is null && !_keys.Has("head_dim") && moe && hidden % heads != 0)
        {
            throw Contradiction("num_attention_heads", $"{heads}", $"hidden_size is {hidden}, which is no multiple of it, and head_dim is absent");
        }
        var headDim = Size("head_dim", fact, moe ? hidden / heads : 128, 1, ErnieConfigLimits.HeadDim);
        if (headDim % 2 != 0) throw Contradiction("head_dim", $"{headDim}", "rotary position embedding turns pairs of channels, so it must be even");
        if (_facts?.KeyWidth is { } key && key.Value != (long)kvHeads * headDim) throw Contradiction("num_key_value_heads", $"{kvHeads}", $"with head_dim {headDim} that does not fit {key.Tensor}");
        if ((heads + 2L * kvHeads) * headDim > int.MaxValue) throw Contradiction("head_dim", $"{headDim}", "the projections would have more than 2^31 rows");
        return (headDim, kvHeads);
    }

    private double ReadRopeTheta()
    {
        var top = _keys.Number("rope_theta", 1, 1e12);
        var nested = _keys.Child("rope_parameters")?.Number("rope_theta", 1, 1e12);
        if (nested is { } theta)
        {
            if (top is { } other && other != theta) _notes.Add($"rope_theta: {theta} of rope_parameters, not {other} beside it.");
            return theta;
        }
        if (top is { } value) return value;
        Note("rope_theta", "500000, transformers' default");
        return 500000;
    }

    private bool ReadTied()
    {
        var key = _keys.Flag("tie_word_embeddings");
        if (_facts is null)
        {
            if (key is null) Note("tie_word_embeddings", "true, transformers' default");
            return key ?? true;
        }
        if (_facts is { HasHead: false, HasEmbedding: false })
        {
            throw new InvalidDataException($"{_keys.File}: the checkpoint holds neither {TensorNames.Embedding} nor {TensorNames.Head}. Download the checkpoint again.");
        }
        if (_facts is { HasHead: true, HasEmbedding: true })
        {
            if (key == true) _notes.Add($"tie_word_embeddings is true, but the checkpoint holds {TensorNames.Head}: that one is used.");
            return false;
        }
        var missing = _facts.HasHead ? TensorNames.Embedding : TensorNames.Head;
        if (key == false)
        {
            throw new InvalidDataException($"{_keys.File}: 'tie_word_embeddings' is false, but the checkpoint holds no {missing}. Download the missing shard, or set the key to true if one matrix is meant for both.");
        }
        if (key is null) Note("tie_word_embeddings", $"true, for the checkpoint holds no {missing}");
        if (!_facts.HasEmbedding) _notes.Add($"{TensorNames.Embedding} is missing: {TensorNames.Head} serves as both.");
        return true;
    }

    private ErnieConfig ReadExperts(ErnieConfig config)
    {
        var experts = Size(Alias("moe_num_experts", "num_experts"), _facts?.ExpertCount, 64, 1, ErnieConfigLimits.Experts);
        var perToken = Size(Alias("moe_k", "num_experts_per_tok"), null, 6, 1, ErnieConfigLimits.Experts);
        if (perToken > experts) throw Contradiction("moe_k", $"{perToken}", $"there are {experts} experts");
        var width = Size("moe_intermediate_size", _facts?.ExpertIntermediateSize, 1536, 1, ErnieConfigLimits.Width);
        var layers = new MoeLayerRule(_keys, _facts, _notes).Read(config.LayerCount);
        return config with
        {
            ExpertCount = experts,
            ExpertsPerToken = perToken,
            ExpertIntermediateSize = width,
            SharedExpertCount = ReadSharedExperts(width, layers),
            MoeLayers = layers,
            RouterNormMin = (float)Real("moe_norm_min", 1e-12, 0, 1),
            // Only key and files together excuse a missing bias: the key alone is ignored elsewhere, and zeros in place of a lost bias would select other experts.
            HasCorrectionBias = _keys.Flag("moe_use_aux_free") != false || _facts is { HasCorrectionBias: true },
        };
    }

    private int ReadSharedExperts(int width, bool[] layers)
    {
        SizeFact? fact = null;
        if (_facts is not null && layers.Contains(true))
        {
            fact = !_facts.HasSharedExperts ? new SizeFact(0, "the absence of shared_experts tensors")
                : _facts.SharedWidth is not { } shared ? null
                : shared.Value % width == 0 ? shared with { Value = shared.Value / width }
                : throw Contradiction("moe_intermediate_size", $"{width}", $"it does not divide {shared.Tensor}");
        }
        var count = Size("moe_num_shared_experts", fact, 2, 0, ErnieConfigLimits.Experts);
        if ((long)count * width > ErnieConfigLimits.Width) throw Contradiction("moe_num_shared_experts", $"{count}", $"with moe_intermediate_size {width} the shared experts would be too wide");
        return count;
    }

    private string Alias(string key, string alias)
    {
        if (!_keys.Has(alias)) return key;
        if (!_keys.Has(key)) return alias;
        if (_keys.Raw(key) != _keys.Raw(alias)) throw Contradiction(key, _keys.Raw(key), $"{alias} is {_keys.Raw(alias)}");
        return key;
    }

    private IReadOnlyList<int> ReadStopTokens(int vocabulary)
    {
        var tokens = _keys.Integers("eos_token_id", 0, vocabulary - 1, ErnieConfigLimits.StopTokens);
        if (tokens.Count > 0) return tokens;
        if (vocabulary <= 2) return [];
        Note("eos_token_id", "2, transformers' default");
        return [2];
    }

    // Some writers say -1 for none.
    private int? Token(string key, int fallback, int vocabulary)
    {
        var token = (int?)_keys.Integer(key, -1, vocabulary - 1);
        if (token is null && fallback < vocabulary)
        {
            Note(key, $"{fallback}, transformers' default");
            return fallback;
        }
        return token < 0 ? null : token;
    }

    private double Real(string key, double fallback, double min, double max)
    {
        if (_keys.Number(key, min, max) is { } value) return value;
        Note(key, $"{fallback:R}, transformers' default");
        return fallback;
    }

    private int Size(string key, SizeFact? fact, int fallback, int min, int max)
    {
        var value = (int?)_keys.Integer(key, min, max);
        if (fact is { } settled)
        {
            if (value is { } v && v != settled.Value) throw Contradiction(key, $"{v}", $"{settled.Value} follows from {settled.Tensor}");
            if (settled.Value < min || settled.Value > max) throw Contradiction(key, $"{settled.Value}, from {settled.Tensor}", $"{min} to {max} are allowed");
            if (value is null) Note(key, $"{settled.Value}, from {settled.Tensor}");
            return settled.Value;
        }
        if (value is null)
        {
            if (fallback < min || fallback > max) throw Contradiction(key, "absent", $"its default {fallback} is senseless here");
            Note(key, $"{fallback}, transformers' default");
        }
        return value ?? fallback;
    }

    private void Note(string key, string taken) => _notes.Add($"{key} is absent: {taken}.");

    private InvalidDataException Contradiction(string key, string value, string against) =>
        new($"{_keys.File}: '{key}' is {value}, but {against}. Take config.json and weights from the same repository.");
}
