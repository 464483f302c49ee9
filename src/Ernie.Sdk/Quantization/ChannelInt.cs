using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// WINT8 and WINT4: symmetric integers with one scale an output channel, as FastDeploy computes them. The scale is stored as bfloat16, but the integers come from the channel's largest
/// magnitude before that rounding.
/// </summary>
internal static class ChannelInt
{
    /// <summary>Largest magnitude of an 8-bit integer; -128 does not occur.</summary>
    public const int Largest8 = 127;
    /// <summary>Largest magnitude of a 4-bit integer; -8 does not occur.</summary>
    public const int Largest4 = 7;

    /// <summary>Quantises one output channel, all values finite.</summary>
    /// <returns>The scale, in bits of a bfloat16.</returns>
    public static ushort Quantise(ReadOnlySpan<float> channel, int largest, Span<sbyte> quantised)
    {
        var peak = 0f;
        foreach (var value in channel) peak = Math.Max(peak, Math.Abs(value));
        if (peak == 0)
        {
            // The original divides by zero here.
            quantised[..channel.Length].Clear();
            return 0;
        }
        // Rounding after adding 0.5 would turn 0.49999997 into 1.
        for (var k = 0; k < channel.Length; k++) quantised[k] = (sbyte)MathF.Round((float)(channel[k] / peak) * largest, MidpointRounding.AwayFromZero);
        return WeightPacker.ToBFloat16(peak / largest);
    }

    /// <summary>channel = quantised · scale.</summary>
    public static void Dequantise(ReadOnlySpan<sbyte> quantised, float scale, Span<float> channel)
    {
        channel = channel[..quantised.Length];
        var k = 0;
        for (; k <= quantised.Length - Vector128<sbyte>.Count; k += Vector128<sbyte>.Count)
        {
            var (low, high) = Vector128.Widen(Vector128.Create(quantised[k..]));
            (Vector256.ConvertToSingle(Vector256.Create(Vector128.WidenLower(low), Vector128.WidenUpper(low))) * scale).CopyTo(channel[k..]);
            (Vector256.ConvertToSingle(Vector256.Create(Vector128.WidenLower(high), Vector128.WidenUpper(high))) * scale).CopyTo(channel[(k + 8)..]);
        }
        for (; k < quantised.Length; k++) channel[k] = quantised[k] * scale;
    }
}
