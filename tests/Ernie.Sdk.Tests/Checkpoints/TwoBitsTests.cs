using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Checkpoints;

/// <summary>Checkpoints as -2Bits-Paddle is: what is read from them, and what is refused.</summary>
public class TwoBitsTests
{
    private const string Expert = "ernie.layers.2.mlp.experts.1.up_gate_proj";
    private const string Wint4Expert = "ernie.layers.1.mlp.experts.0.down_proj";
    private const string Dense = "ernie.layers.0.self_attn.qkv_proj";

    [Fact]
    public void EveryWeight_IsDecodedAndSplit()
    {
        using var folder = new TemporaryFolder();
        var two = new TwoBitsCheckpoint();
        two.Write(folder.Path);
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.Equal(CheckpointLayout.Paddle, checkpoint.Layout);
        Assert.Equal([(FastDeployFormat.Wint8, 12), (FastDeployFormat.Wint4, 4), (FastDeployFormat.Wint2, 4)], checkpoint.QuantisedMatrices.Select(static pair => (pair.Key, pair.Value)));
        var compared = 0;
        foreach (var name in checkpoint.TensorKeys)
        {
            var tensor = checkpoint.Tensor(name);
            var actual = new float[tensor.Count];
            tensor.Read(0, actual);
            if (tensor is ChannelTensor or Wint2Tensor)
            {
                Assert.Equal(Expected(two, name, tensor.Columns), actual);
                compared++;
            }
            else Assert.Equal(two.Tiny.Stored(name, tensor.Rows, tensor.Columns), actual);
            // Runs of rows that divide neither a stripe nor a tile.
            for (long row = 0; row < tensor.Rows; row += 37)
            {
                var part = new float[Math.Min(37, tensor.Rows - row) * tensor.Columns];
                tensor.Read(row, part);
                Assert.True(actual.AsSpan((int)(row * tensor.Columns), part.Length).SequenceEqual(part), $"{name} from row {row}");
            }
        }
        // Per layer q, k, v, o; a dense MLP has 3 matrices, a layer of experts 3 shared and 2 times 3.
        Assert.Equal(3 * 4 + 3 + 2 * 9, compared);
    }

    [Fact]
    public void ConfigOnlyWithItsName_IsSettledByTensors()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path, static config =>
        {
            config["quantization_config"] = new JsonObject { ["quantization"] = "wint2", ["unheard_of"] = 1 };
            foreach (var key in new[] { "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "moe_num_experts", "moe_intermediate_size", "moe_num_shared_experts", "moe_layer_start_index" }) config.Remove(key);
        });
        using var checkpoint = Checkpoint.Open(folder.Path);
        var config = checkpoint.Config;
        Assert.Equal((128, 192, 3, 64, 2, 128, 2), (config.HiddenSize, config.IntermediateSize, config.LayerCount, config.HeadDim, config.ExpertCount, config.ExpertIntermediateSize, config.SharedExpertCount));
        Assert.Contains(checkpoint.Notes, static note => note.Contains("unheard_of", StringComparison.Ordinal));
        Assert.Contains(checkpoint.Notes, static note => note.StartsWith("intermediate_size is absent: 192, from ernie.layers.0.mlp.up_gate_proj.weight_scale", StringComparison.Ordinal));
    }

    [Fact]
    public void Report_NamesTheFormats()
    {
        using var checkpoint = Checkpoint.Open(SharedData.Path("goldens", "checkpoints", "2bits"));
        var lines = CheckpointReport.Lines(checkpoint);
        Assert.Contains("Layout          -Paddle: q|k|v and gate|up fused, matrices [inputs, outputs]; quantised (2Bits)", lines);
        Assert.Contains("Quantised       WINT8 in GPU byte order: 12 matrices, WINT4 in GPU byte order: 16 matrices, WINT2 in plain order: 16 matrices", lines);
        Assert.Contains(lines, static line => line.StartsWith("Stored          BF16: ", StringComparison.Ordinal) && line.Contains("I8: 28 tensors", StringComparison.Ordinal) && line.Contains("U8: 32 tensors", StringComparison.Ordinal));
        Assert.Contains(lines, static line => line.Contains("byte order", StringComparison.Ordinal) && line.Contains("published sources", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(Expert, "code_zp", "F32 [256]")]
    [InlineData(Expert, "code_scale", "F32 [256]")]
    [InlineData(Expert, "super_scales", "BF16 [256]")]
    [InlineData(Expert, "weight_scale", "U8 [1, 256]")]
    [InlineData(Wint4Expert, "weight_scale", "BF16 [128]")]
    [InlineData(Dense, "weight_scale", "BF16 [320]")]
    public void MissingParts_AreNamed(string matrix, string part, string shape)
    {
        var e = Refused<InvalidDataException>(tensors => Assert.Equal(1, tensors.RemoveAll(t => t.Name == $"{matrix}.{part}")));
        Assert.Contains("tensors are missing: " + $"{matrix}.{part} {shape}", e.Message, StringComparison.Ordinal);
        Assert.Contains("download", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MissingMatrices_AreNamed()
    {
        var e = Refused<InvalidDataException>(tensors => tensors.RemoveAll(t => t.Name == $"{Expert}.quant_weight"));
        Assert.Contains(TensorNames.ExpertGate(2, 1), e.Message, StringComparison.Ordinal);
        Refused<InvalidDataException>(tensors => tensors.RemoveAll(t => t.Name.StartsWith(Expert, StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData(Expert, "quant_weight", 16, 512, "[32, 256]")]
    [InlineData(Expert, "quant_weight", 256, 32, "[32, 256]")]
    [InlineData(Expert, "weight_scale", 256, 1, "[1, 256]")]
    [InlineData(Expert, "code_zp", 256, 1, "[256]")]
    [InlineData(Wint4Expert, "quant_weight", 128, 64, "WINT4")]
    [InlineData(Dense, "quant_weight", 128, 320, "[320, 128]")]
    [InlineData(Dense, "quant_weight", 1, 40960, "[320, 128]")]
    public void WrongShapes_AreNamed(string matrix, string part, long rows, long columns, string expected)
    {
        var e = Refused<InvalidDataException>(tensors => Edit(tensors, $"{matrix}.{part}", t => t with { Shape = [rows, columns] }));
        Assert.Contains($"{matrix}.{part}", e.Message, StringComparison.Ordinal);
        if (expected != "WINT4") Assert.Contains($"expected {expected}", e.Message, StringComparison.Ordinal);
        Assert.Contains($"[{rows}, {columns}]", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(Expert, "quant_weight", "I8", "U8")]
    [InlineData(Expert, "weight_scale", "I8", "U8")]
    [InlineData(Expert, "super_scales", "I16", "BF16, F16 or F32")]
    [InlineData(Expert, "code_scale", "I32", "F32")]
    [InlineData(Expert, "code_zp", "I32", "F32")]
    [InlineData(Wint4Expert, "weight_scale", "I16", "BF16, F16 or F32")]
    [InlineData(Dense, "quant_weight", "F8_E4M3", "I8")]
    public void WrongTypes_AreNamed(string matrix, string part, string type, string expected)
    {
        var e = Refused<InvalidDataException>(tensors => Edit(tensors, $"{matrix}.{part}", t => t with { ElementType = type }));
        Assert.Contains($"{matrix}.{part} {type}", e.Message, StringComparison.Ordinal);
        Assert.Contains($"(expected {expected})", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void DenseMatrixDeclaredUnsigned_IsRefused() =>
        Assert.Contains($"{Dense}.super_scales", Refused<InvalidDataException>(tensors => Edit(tensors, $"{Dense}.quant_weight", static t => t with { ElementType = "U8" })).Message, StringComparison.Ordinal);

    [Fact]
    public void LayerRanges_AgainstTheTensorsAreRefused()
    {
        // Layer 1 holds WINT4, layer 2 WINT2.
        var e = Refused<InvalidDataException>(null, static config => Ranges(config, 0, 2, 3, 3));
        Assert.Contains("experts.0.up_gate_proj.quant_weight U8 [32, 256]", e.Message, StringComparison.Ordinal);
        Assert.Contains("is WINT2, quantization_config says WINT4", e.Message, StringComparison.Ordinal);
        Assert.Contains("is WINT4, quantization_config says WINT2", Refused<InvalidDataException>(null, static config => Ranges(config, 0, 0, 1, 2)).Message, StringComparison.Ordinal);
        Assert.Contains("quant_end_layer", Refused<InvalidDataException>(null, static config => Ranges(config, 0, -1, 1, 2)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LayerRanges_ThatSayNothingOfALayerLeaveItToTheTensors()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path, static config => Ranges(config, 0, 0, 2, 2));
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.Equal(4, checkpoint.QuantisedMatrices[FastDeployFormat.Wint4]);
    }

    [Fact]
    public void DenseMatrixOfOtherBits_IsRefused()
    {
        var e = Refused<InvalidDataException>(static tensors => Edit(tensors, $"{Dense}.quant_weight", static t => t with { Shape = [160, 128], Data = t.Data[..(160 * 128)] }));
        Assert.Contains("is WINT4, quantization_config says WINT8", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void UnquantisedMatrix_IsRefused()
    {
        var e = Refused<InvalidDataException>(static tensors =>
        {
            tensors.RemoveAll(static t => t.Name.StartsWith(Dense, StringComparison.Ordinal));
            tensors.Add(EncodedTensor.Of($"{Dense}.weight", StoredType.BFloat16, [128, 320], new float[128 * 320]));
        });
        Assert.Contains($"{Dense}.weight BF16 [128, 320]", e.Message, StringComparison.Ordinal);
        Assert.Contains("is not quantised", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MatrixStoredBothWays_IsRefused() =>
        Refused<NotSupportedException>(static tensors => tensors.Add(EncodedTensor.Of($"{Dense}.weight", StoredType.BFloat16, [128, 320], new float[128 * 320])));

    [Theory]
    [InlineData("ernie.layers.1.mlp.experts.0.up_gate_proj.activation_scale")]
    [InlineData("ernie.layers.0.self_attn.cachek_matmul.activation_scale")]
    [InlineData("ernie.layers.0.self_attn.qkv_proj.weight_scale_inv")]
    [InlineData("ernie.embed_tokens.quant_weight")]
    [InlineData("lm_head.weight_scale")]
    public void PartsOfOtherFormats_AreRefused(string name)
    {
        var e = Refused<NotSupportedException>(tensors => tensors.Add(EncodedTensor.Of(name, StoredType.Float32, [1], [1])));
        Assert.Contains(name, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void InputsOfNoWholeRun_AreRefused()
    {
        var e = Refused<InvalidDataException>(static tensors =>
        {
            Edit(tensors, "ernie.layers.0.mlp.up_gate_proj.quant_weight", static t => t with { Shape = [320, 128], Data = t.Data[..(320 * 128)] });
            Edit(tensors, "ernie.layers.0.mlp.up_gate_proj.weight_scale", static t => t with { Shape = [320], Data = t.Data[..640] });
            Edit(tensors, "ernie.layers.0.mlp.down_proj.quant_weight", static t => t with { Shape = [128, 160], Data = t.Data[..(128 * 160)] });
        }, static config => config["intermediate_size"] = 160);
        Assert.Contains("ernie.layers.0.mlp.down_proj.quant_weight", e.Message, StringComparison.Ordinal);
        Assert.Contains("of 64 inputs", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TruncatedFile_IsRefused()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path);
        var path = folder.File("model-00002-of-00002.safetensors");
        File.WriteAllBytes(path, File.ReadAllBytes(path)[..^1]);
        Assert.Contains("truncated", Assert.Throws<InvalidDataException>(() => Checkpoint.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("code_scale")]
    [InlineData("code_zp")]
    public void CodesThatAreNoNumbers_AreRefusedWhenRead(string part)
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path, editTensors: tensors => Edit(tensors, $"{Expert}.{part}", static t =>
        {
            BitConverter.GetBytes(float.NaN).CopyTo(t.Data, 4 * 200);
            return t;
        }));
        using var checkpoint = Checkpoint.Open(folder.Path);
        checkpoint.Tensor(TensorNames.ExpertGate(2, 1)).Read(0, new float[128 * 128]);
        var e = Assert.Throws<InvalidDataException>(() => checkpoint.Tensor(TensorNames.ExpertUp(2, 1)).Read(0, new float[128 * 128]));
        Assert.Contains($"{Expert}.{part}", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ScalesThatAreNoNumbers_ReachTheExporter()
    {
        using var folder = new TemporaryFolder();
        foreach (var scale in new[] { $"{Expert}.super_scales", $"{Wint4Expert}.weight_scale" })
        {
            new TwoBitsCheckpoint().Write(folder.Path, editTensors: tensors => Edit(tensors, scale, static t =>
            {
                t.Data[3] = 0x7F;
                t.Data[2] = 0xC0;
                return t;
            }));
            using var checkpoint = Checkpoint.Open(folder.Path);
            foreach (ErniePrecision? precision in new ErniePrecision?[] { null, ErniePrecision.Float32 })
            {
                var options = new ErnieExportOptions { Experts = precision, Dense = precision };
                var e = Assert.Throws<InvalidDataException>(() => ErnieExporter.Export(checkpoint, null, folder.File("out"), options, null, CancellationToken.None));
                Assert.Contains("must be finite", e.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void RankFolders_AreRefused()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path);
        Directory.CreateDirectory(folder.File("rank0"));
        Assert.Contains("tensor parallelism", Assert.Throws<NotSupportedException>(() => Checkpoint.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    private static float[] Expected(TwoBitsCheckpoint two, string name, long columns)
    {
        var stem = "ernie." + name["model.".Length..^".weight".Length];
        if (two.Decoded.TryGetValue(stem, out var whole)) return whole;
        var path = stem[..(stem.LastIndexOf('.') + 1)];
        var tiny = two.Tiny;
        var (queries, keys) = (tiny.Heads * tiny.HeadDim, tiny.KvHeads * tiny.HeadDim);
        (string Fused, int First, int? Rows) part = stem[path.Length..] switch
        {
            "q_proj" => ("qkv_proj", 0, queries),
            "k_proj" => ("qkv_proj", queries, keys),
            "v_proj" => ("qkv_proj", queries + keys, keys),
            "gate_proj" => ("up_gate_proj", 0, null),
            _ => ("up_gate_proj", -1, null),
        };
        var fused = two.Decoded[path + part.Fused];
        var rows = part.Rows ?? fused.Length / (int)columns / 2;
        return fused.AsSpan((part.First < 0 ? rows : part.First) * (int)columns, rows * (int)columns).ToArray();
    }

    private static void Ranges(JsonObject config, int firstWint4, int lastWint4, int firstWint2, int lastWint2)
    {
        var experts = config["quantization_config"]!["moe_quant_config"]!;
        (experts["moe_w4_quant_config"]!["quant_start_layer"], experts["moe_w4_quant_config"]!["quant_end_layer"]) = (firstWint4, lastWint4);
        (experts["moe_w2_quant_config"]!["quant_start_layer"], experts["moe_w2_quant_config"]!["quant_end_layer"]) = (firstWint2, lastWint2);
    }

    private static void Edit(List<EncodedTensor> tensors, string name, Func<EncodedTensor, EncodedTensor> change)
    {
        var index = tensors.FindIndex(t => t.Name == name);
        Assert.True(index >= 0, name);
        tensors[index] = change(tensors[index]);
    }

    private static T Refused<T>(Action<List<EncodedTensor>>? editTensors, Action<JsonObject>? editConfig = null) where T : Exception
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.Path, editConfig, editTensors);
        return Assert.Throws<T>(() => Checkpoint.Open(folder.Path).Dispose());
    }
}
