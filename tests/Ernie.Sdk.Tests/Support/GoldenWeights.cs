using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Weights of the golden checkpoints as functions of their names; the rules stand in the READMEs of the golden data.</summary>
internal sealed class GoldenWeights
{
    public required string Prefix { get; init; }
    public required double NormScale { get; init; }
    public required double BiasScale { get; init; }
    public required double EmbeddingScale { get; init; }
    public bool RouterIsBFloat16 { get; init; }

    public static GoldenWeights Checkpoints { get; } = new() { Prefix = "", NormScale = 0.4, BiasScale = 0.2, EmbeddingScale = 2 };

    public static GoldenWeights Transformers(string prefix, bool routerIsBFloat16) =>
        new() { Prefix = prefix, NormScale = 0.6, BiasScale = 0.15, EmbeddingScale = 0.5, RouterIsBFloat16 = routerIsBFloat16 };

    public float[] Of(CheckpointTensor tensor)
    {
        var random = new GoldenRandom(Prefix + tensor.Name);
        var router = tensor.Name.EndsWith("mlp.gate.weight", StringComparison.Ordinal) || tensor.Name.EndsWith("e_score_correction_bias", StringComparison.Ordinal);
        var values = new float[tensor.Count];
        for (var i = 0; i < values.Length; i++)
        {
            var value = (float)Value(tensor.Name, random.Value(i), tensor.Columns);
            values[i] = router && !RouterIsBFloat16 ? value : RoundToBFloat16(value);
        }
        return values;
    }

    public static float RoundToBFloat16(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return BitConverter.UInt32BitsToSingle((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
    }

    private double Value(string name, double r, long inputs) => name switch
    {
        _ when name.EndsWith("norm.weight", StringComparison.Ordinal) => 1 + NormScale * r,
        _ when name.EndsWith("e_score_correction_bias", StringComparison.Ordinal) => BiasScale * r,
        _ when name.EndsWith("mlp.gate.weight", StringComparison.Ordinal) => 6 * r / Math.Sqrt(inputs),
        _ when name.EndsWith("embed_tokens.weight", StringComparison.Ordinal) => EmbeddingScale * r,
        _ => 4 * r / Math.Sqrt(inputs),
    };
}
