using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

public class CheckpointErrorTests
{
    private static readonly TinyCheckpoint Dense = new();
    private static readonly TinyCheckpoint Moe = new() { Layers = 3, Experts = 4, SharedExperts = 1 };

    [Fact]
    public void MissingFolderAndFiles_AreNamed()
    {
        using var folder = new TemporaryFolder();
        Assert.Throws<DirectoryNotFoundException>(() => Checkpoint.Open(folder.File("nowhere")));
        Assert.Contains("config.json", Assert.Throws<FileNotFoundException>(() => Checkpoint.Open(folder.Path)).Message, StringComparison.Ordinal);
        File.WriteAllText(folder.File("config.json"), Dense.ConfigJson().ToJsonString());
        File.WriteAllText(folder.File("model.gguf"), "");
        var e = Assert.Throws<FileNotFoundException>(() => Checkpoint.Open(folder.Path));
        Assert.Contains("model.gguf", e.Message, StringComparison.Ordinal);
        Assert.Contains("bfloat16", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MissingTensors_AreListedTogether()
    {
        var e = Refused<InvalidDataException>(Moe, editTensors: tensors => tensors.RemoveAll(t => t.Name.Contains("experts.", StringComparison.Ordinal) && t.Name.Contains("up_proj", StringComparison.Ordinal)));
        Assert.Contains("tensors are missing", e.Message, StringComparison.Ordinal);
        Assert.Contains(TensorNames.SharedUp(1), e.Message, StringComparison.Ordinal);
        Assert.Contains("and 5 more (10 in all)", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WrongShapes_AreListedTogether()
    {
        var e = Refused<InvalidDataException>(Moe, editTensors: tensors => Replace(tensors, t => t.Name.EndsWith("input_layernorm.weight", StringComparison.Ordinal), t => t with { Shape = [16], Data = t.Data[..32] }));
        Assert.Contains("input_layernorm.weight BF16 [16]", e.Message, StringComparison.Ordinal);
        Assert.Contains("expected [32]", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("vocab_size", 65)]
    [InlineData("hidden_size", 16)]
    [InlineData("intermediate_size", 50)]
    [InlineData("num_hidden_layers", 2)]
    [InlineData("num_hidden_layers", 4)]
    [InlineData("head_dim", 16)]
    [InlineData("moe_num_experts", 5)]
    [InlineData("moe_intermediate_size", 8)]
    [InlineData("moe_num_shared_experts", 0)]
    [InlineData("moe_num_shared_experts", 2)]
    [InlineData("moe_layer_start_index", 2)]
    [InlineData("moe_layer_start_index", 0)]
    [InlineData("moe_layer_end_index", 1)]
    [InlineData("moe_layer_interval", 2)]
    public void KeysAgainstTensors_AreRefusedByKey(string key, int value)
    {
        var e = Refused<InvalidDataException>(Moe, config => config[key] = value);
        Assert.Contains("config.json: '", e.Message, StringComparison.Ordinal);
        Assert.Contains(key == "moe_layer_end_index" ? "moe_layer" : key, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AbsentKeys_AreSettledByTensors()
    {
        using var folder = new TemporaryFolder();
        var tiny = new TinyCheckpoint { Layers = 4, Experts = 3, SharedExperts = 2, FirstMoeLayer = 0, MoeInterval = 2, Tied = false };
        tiny.Write(folder.Path, config =>
        {
            foreach (var key in new[]
            {
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "tie_word_embeddings", "moe_num_experts", "moe_intermediate_size", "moe_num_shared_experts",
                "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "model_type",
            }) config.Remove(key);
        });
        using var checkpoint = Checkpoint.Open(folder.Path);
        var config = checkpoint.Config;
        Assert.Equal((64, 32, 48, 4, 8, false), (config.VocabSize, config.HiddenSize, config.IntermediateSize, config.LayerCount, config.HeadDim, config.TieWordEmbeddings));
        Assert.Equal((3, 16, 2), (config.ExpertCount, config.ExpertIntermediateSize, config.SharedExpertCount));
        Assert.Equal([false, true, false, true], config.MoeLayers);
        Assert.Contains(checkpoint.Notes, note => note.StartsWith("vocab_size is absent: 64, from model.embed_tokens.weight", StringComparison.Ordinal));
    }

    [Fact]
    public void Experts_InADenseModelAreRefused() => Assert.Contains("model_type", Refused<InvalidDataException>(Moe, config => config["model_type"] = "ernie4_5").Message, StringComparison.Ordinal);

    [Fact]
    public void Head_InTheFileWins()
    {
        using var folder = new TemporaryFolder();
        (Dense with { Tied = false }).Write(folder.Path, config => config["tie_word_embeddings"] = true);
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.False(checkpoint.Config.TieWordEmbeddings);
        Assert.NotSame(checkpoint.Tensor(TensorNames.Embedding), checkpoint.Tensor(TensorNames.Head));
        Assert.Contains(checkpoint.Notes, note => note.StartsWith("tie_word_embeddings is true, but", StringComparison.Ordinal));
    }

    [Fact]
    public void Head_NeitherTiedNorThereIsRefused()
    {
        var e = Refused<InvalidDataException>(Dense, config => config["tie_word_embeddings"] = false);
        Assert.Contains("lm_head.weight", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(TinyLayout.Split)]
    [InlineData(TinyLayout.Paddle)]
    internal void Embedding_MissingIsTheHeadOfATiedModel(TinyLayout layout)
    {
        using var folder = new TemporaryFolder();
        var tiny = Dense with { Tied = false, Layout = layout };
        tiny.Write(folder.Path, config => config["tie_word_embeddings"] = true, tensors => tensors.RemoveAll(t => t.Name.Contains("embed_tokens", StringComparison.Ordinal)));
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.True(checkpoint.Config.TieWordEmbeddings);
        var embedding = checkpoint.Tensor(TensorNames.Embedding);
        Assert.Same(embedding, checkpoint.Tensor(TensorNames.Head));
        var values = new float[embedding.Count];
        embedding.Read(0, values);
        Assert.Equal(tiny.Stored(TensorNames.Head, 64, 32), values);
    }

    [Fact]
    public void CorrectionBias_MissingIsRefused()
    {
        var e = Refused<InvalidDataException>(Moe, editTensors: tensors => tensors.RemoveAll(t => t.Name.EndsWith("e_score_correction_bias", StringComparison.Ordinal)));
        Assert.Contains(TensorNames.CorrectionBias(1), e.Message, StringComparison.Ordinal);
        e = Refused<InvalidDataException>(Moe, config => config["moe_use_aux_free"] = false, tensors => tensors.RemoveAll(t => t.Name == TensorNames.CorrectionBias(1)));
        Assert.Contains(TensorNames.CorrectionBias(1), e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void CorrectionBias_OfAModelWithoutIsZero()
    {
        using var folder = new TemporaryFolder();
        Moe.Write(folder.Path, config => config["moe_use_aux_free"] = false, tensors => tensors.RemoveAll(t => t.Name.EndsWith("e_score_correction_bias", StringComparison.Ordinal)));
        using var checkpoint = Checkpoint.Open(folder.Path);
        var values = new float[] { 1, 1, 1, 1 };
        checkpoint.Tensor(TensorNames.CorrectionBias(2)).Read(0, values);
        Assert.Equal(new float[4], values);
        Assert.Single(checkpoint.Notes, note => note.Contains("moe_use_aux_free", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("model.layers.0.self_attn.q_proj.bias")]
    [InlineData("model.layers.0.self_attn.q_norm.weight")]
    [InlineData("model.layers.1.mlp.experts.0.extra.weight")]
    [InlineData("lm_head.bias")]
    [InlineData("vision_model.blocks.0.norm.weight")]
    [InlineData("model.layers.0.self_attn.q_proj.weight_scale_inv")]
    [InlineData("model.layers.0.mlp.down_proj.quant_weight")]
    public void TensorsOfUnknownFeatures_AreRefused(string name)
    {
        var e = Refused<NotSupportedException>(Moe, editTensors: tensors => tensors.Add(EncodedTensor.Of(name, StoredType.Float32, [1], [1])));
        Assert.Contains(name, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void BothSpellings_AreRefused()
    {
        Refused<NotSupportedException>(Dense, editTensors: tensors => tensors.Add(EncodedTensor.Of("model.layers.0.self_attn.qkv_proj.weight", StoredType.Float32, [64, 32], new float[2048])));
        Refused<InvalidDataException>(Dense, editTensors: tensors => tensors.Add(EncodedTensor.Of("ernie.norm.weight", StoredType.Float32, [32], new float[32])));
    }

    [Fact]
    public void OtherTensors_AreNoted()
    {
        using var folder = new TemporaryFolder();
        Dense.Write(folder.Path, editTensors: tensors => tensors.Add(EncodedTensor.Of("model.something", StoredType.Float32, [1], [1])));
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.Contains(checkpoint.Notes, note => note.Contains("model.something", StringComparison.Ordinal));
    }

    [Fact]
    public void OtherElementTypes_AreRefused()
    {
        var e = Refused<InvalidDataException>(Dense, editTensors: tensors => Replace(tensors, t => t.Name.Contains("o_proj", StringComparison.Ordinal), t => t with { ElementType = "I16" }));
        Assert.Contains("I16", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SquareMatrices_AmongBothOrientationsAreRefused()
    {
        var e = Refused<InvalidDataException>(Dense, editTensors: tensors => Replace(tensors, t => t.Name.Contains("0.self_attn.k_proj", StringComparison.Ordinal), t => t with { Shape = [32, 16] }));
        Assert.Contains("both orientations", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void RankFolders_AreRefused()
    {
        using var folder = new TemporaryFolder();
        Dense.Write(folder.Path);
        Directory.CreateDirectory(folder.File("rank0"));
        Directory.CreateDirectory(folder.File("rank1"));
        Assert.Contains("parallelism of 2", Assert.Throws<NotSupportedException>(() => Checkpoint.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MissingShards_AreListedTogether()
    {
        using var folder = new TemporaryFolder();
        (Moe with { Shards = 5 }).Write(folder.Path);
        File.Delete(folder.File("model-00002-of-00005.safetensors"));
        File.Delete(folder.File("model-00004-of-00005.safetensors"));
        var e = Assert.Throws<InvalidDataException>(() => Checkpoint.Open(folder.Path));
        Assert.Contains("00002", e.Message, StringComparison.Ordinal);
        Assert.Contains("00004", e.Message, StringComparison.Ordinal);
        File.Delete(folder.File("model.safetensors.index.json"));
        e = Assert.Throws<InvalidDataException>(() => Checkpoint.Open(folder.Path));
        Assert.Contains("number 2; number 4", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Index_AgainstItsShardsIsRefusedOrNoted()
    {
        using var folder = new TemporaryFolder();
        (Moe with { Shards = 2 }).Write(folder.Path);
        var path = folder.File("model.safetensors.index.json");
        var index = JsonNode.Parse(File.ReadAllText(path))!;
        var map = index["weight_map"]!.AsObject();
        map.Remove("model.norm.weight");
        File.WriteAllText(path, index.ToJsonString());
        using (var checkpoint = Checkpoint.Open(folder.Path)) Assert.Contains(checkpoint.Notes, note => note.Contains("model.norm.weight", StringComparison.Ordinal));
        map["model.norm.weight"] = "model-00001-of-00002.safetensors";
        File.WriteAllText(path, index.ToJsonString());
        Assert.Contains("model.norm.weight in model-00001", Assert.Throws<InvalidDataException>(() => Checkpoint.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("../model.safetensors")]
    [InlineData("/tmp/model.safetensors")]
    [InlineData("a/b.safetensors")]
    [InlineData("a\\\\b.safetensors")]
    [InlineData("C:model.safetensors")]
    [InlineData("..safetensors")]
    [InlineData("model\\u0000.safetensors")]
    [InlineData("model.bin")]
    [InlineData("")]
    public void Index_LeavingTheFolderIsRefused(string shard)
    {
        var json = System.Text.Encoding.UTF8.GetBytes("{\"weight_map\":{\"a\":\"" + shard + "\"}}");
        Assert.Contains("plain name", Assert.Throws<InvalidDataException>(() => ShardIndex.Parse(json, "index")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("""{"weight_map":{}}""")]
    [InlineData("""{"weight_map":[]}""")]
    [InlineData("""{"weight_map":{"a":5}}""")]
    [InlineData("""{"weight_map":{"a":"m.safetensors","a":"n.safetensors"}}""")]
    [InlineData("""{"weight_map":{"a":"mm.safetensors"},"weight_map":{"a":"mm.safetensors"}}""")]
    [InlineData("""{"weight_map":{"a":"mm.safetensors"}""")]
    [InlineData("")]
    public void BrokenIndexes_AreRefused(string json) => Assert.Throws<InvalidDataException>(() => ShardIndex.Parse(System.Text.Encoding.UTF8.GetBytes(json), "index"));

    [Fact]
    public void RefusedCheckpoints_CloseTheirFiles()
    {
        using var folder = new TemporaryFolder();
        Dense.Write(folder.Path, config => config["vocab_size"] = 65);
        Assert.Throws<InvalidDataException>(() => Checkpoint.Open(folder.Path));
        using var exclusive = new FileStream(folder.File("model.safetensors"), FileMode.Open, FileAccess.ReadWrite, FileShare.None);
    }

    private static T Refused<T>(TinyCheckpoint tiny, Action<JsonObject>? editConfig = null, Action<List<EncodedTensor>>? editTensors = null) where T : Exception
    {
        using var folder = new TemporaryFolder();
        tiny.Write(folder.Path, editConfig, editTensors);
        return Assert.Throws<T>(() => Checkpoint.Open(folder.Path).Dispose());
    }

    private static void Replace(List<EncodedTensor> tensors, Predicate<EncodedTensor> which, Func<EncodedTensor, EncodedTensor> change)
    {
        for (var i = 0; i < tensors.Count; i++)
        {
            if (which(tensors[i])) tensors[i] = change(tensors[i]);
        }
    }
}
