using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// A small checkpoint as -2Bits-Paddle is: WINT8 for linears that every token uses, experts in WINT4 up to a layer and in WINT2 after it. WINT8 and WINT4 quantise the weights of
/// <see cref="TinyCheckpoint"/>; codes of WINT2 are random, each column with its own.
/// </summary>
internal sealed class TwoBitsCheckpoint
{
    public TinyCheckpoint Tiny { get; init; } = new()
    {
        Layout = TinyLayout.Paddle, Layers = 3, Hidden = 128, Heads = 3, KvHeads = 1, HeadDim = 64, Intermediate = 192, Experts = 2, ExpertIntermediate = 128, SharedExperts = 2, Tied = false, Shards = 2,
    };

    public int LastWint4Layer { get; init; } = 1;

    /// <summary>What a reader must give back: the decoded matrices, [outputs, inputs], by stored name without <c>.quant_weight</c>.</summary>
    public Dictionary<string, float[]> Decoded { get; } = [];

    public void Write(string folder, Action<JsonObject>? editConfig = null, Action<List<EncodedTensor>>? editTensors = null) =>
        Tiny.Write(folder, config =>
        {
            config["quantization_config"] = QuantizationConfig();
            editConfig?.Invoke(config);
        }, tensors =>
        {
            for (var i = tensors.Count - 1; i >= 0; i--)
            {
                if (IsQuantised(tensors[i].Name)) Replace(tensors, i);
            }
            editTensors?.Invoke(tensors);
        });

    private JsonObject QuantizationConfig() => new()
    {
        ["dense_quant_type"] = "wint8", ["moe_quant_type"] = "w4w2", ["quantization"] = "wint2",
        ["moe_quant_config"] = new JsonObject
        {
            ["moe_w4_quant_config"] = new JsonObject { ["quant_type"] = "wint4", ["quant_granularity"] = "per_channel", ["quant_start_layer"] = 0, ["quant_end_layer"] = LastWint4Layer },
            ["moe_w2_quant_config"] = new JsonObject
            {
                ["quant_type"] = "wint2", ["quant_granularity"] = "pp_acc", ["quant_group_size"] = 64, ["quant_start_layer"] = LastWint4Layer + 1, ["quant_end_layer"] = Tiny.Layers - 1,
            },
        },
    };

    private static bool IsQuantised(string name) => name.EndsWith("_proj.weight", StringComparison.Ordinal);

    private void Replace(List<EncodedTensor> tensors, int index)
    {
        var plain = tensors[index];
        tensors.RemoveAt(index);
        var stem = plain.Name[..^".weight".Length];
        var (inputs, outputs) = ((int)plain.Shape[0], (int)plain.Shape[1]);
        var isExpert = LayerNames.TryParse(StoredTensors.Stem(plain.Name), out var layer, out var rest) && rest.StartsWith("mlp.experts.", StringComparison.Ordinal);
        tensors.InsertRange(index, isExpert && layer > LastWint4Layer ? Wint2Parts(stem, inputs, outputs) : Channels(stem, inputs, outputs, MemoryMarshal.Cast<byte, ushort>(plain.Data), isExpert ? 4 : 8));
    }

    private EncodedTensor[] Channels(string stem, int inputs, int outputs, ReadOnlySpan<ushort> weights, int bits)
    {
        var perByte = 8 / bits;
        var (bytes, scales, decoded) = (new byte[inputs * outputs / perByte], new ushort[outputs], new float[inputs * outputs]);
        var (column, q) = (new float[inputs], new sbyte[inputs]);
        for (var n = 0; n < outputs; n++)
        {
            for (var k = 0; k < inputs; k++) column[k] = BFloat16.ToSingle(weights[k * outputs + n]);
            scales[n] = ChannelInt.Quantise(column, bits == 8 ? ChannelInt.Largest8 : ChannelInt.Largest4, q);
            for (var k = 0; k < inputs; k++)
            {
                // The closed form, over the whole matrix.
                if (bits == 8) bytes[GpuByteOrder.ByteIndex(k, n, inputs)] = (byte)(q[k] + 128);
                else
                {
                    var nibble = GpuByteOrder.NibbleIndex(k, n, inputs);
                    bytes[nibble / 2] |= (byte)((q[k] + 8) << (int)(nibble % 2 * 4));
                }
                decoded[n * inputs + k] = q[k] * BFloat16.ToSingle(scales[n]);
            }
        }
        Decoded[stem] = decoded;
        return [new($"{stem}.quant_weight", "I8", [outputs / perByte, inputs], bytes), new($"{stem}.weight_scale", "BF16", [outputs], MemoryMarshal.AsBytes<ushort>(scales).ToArray())];
    }

    private EncodedTensor[] Wint2Parts(string stem, int inputs, int outputs)
    {
        var random = new GoldenRandom(stem);
        var codes = Bytes(inputs / 4 * outputs, 0);
        var groups = Bytes(inputs / 128 * outputs, 1 << 20);
        var superScales = Enumerable.Range(0, outputs).Select(n => GoldenWeights.RoundToBFloat16((float)(0.002 + 0.001 * random.Value((2 << 20) + n)))).ToArray();
        var codeScales = Enumerable.Range(0, outputs).Select(n => (float)(110 + 40 * random.Value((3 << 20) + n))).ToArray();
        var codeZeroPoints = Enumerable.Range(0, outputs).Select(n => (float)(1000 + 900 * random.Value((4 << 20) + n))).ToArray();
        var decoded = new float[inputs * outputs];
        for (var n = 0; n < outputs; n++)
        {
            for (var k = 0; k < inputs; k++)
            {
                var word = Wint2.Word(codes[k / 4 * outputs + n], codeScales[n], codeZeroPoints[n]);
                var scales = groups[k / 128 * outputs + n];
                decoded[n * inputs + k] = (k / 64 % 2 == 0 ? scales >> 4 : scales & 15) * superScales[n] * Wint2.Value(word, k % 4);
            }
        }
        Decoded[stem] = decoded;
        return
        [
            new($"{stem}.quant_weight", "U8", [inputs / 4, outputs], codes), new($"{stem}.weight_scale", "U8", [inputs / 128, outputs], groups),
            EncodedTensor.Of($"{stem}.super_scales", StoredType.BFloat16, [outputs], superScales),
            EncodedTensor.Of($"{stem}.code_scale", StoredType.Float32, [outputs], codeScales), EncodedTensor.Of($"{stem}.code_zp", StoredType.Float32, [outputs], codeZeroPoints),
        ];

        byte[] Bytes(int count, long from) => [.. Enumerable.Range(0, count).Select(i => (byte)(random.Bits(from + i) >> 40))];
    }
}
