using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// Where FastDeploy's GPU kernels want the integers of a WINT8 or WINT4 matrix with K inputs (k) and N outputs (n), integer divisions:
/// <code>
/// WINT8   kk = 16·(k/16) + 2·(k%8) + (k%16)/8      byte   index  kk%64 + 128·(kk/64) + 64·(n%2) + 2·K·(n/2)      holds q + 128
/// WINT4   kp = 32·(k/32) + 4·(k%8) + (k%32)/8      nibble index  kp%64 + 256·(kp/64) + 64·(n%4) + 4·K·(n/4)      holds q + 8, the even index in the low half of its byte
/// </code>
/// So 2 (WINT8) or 4 (WINT4) neighbouring outputs make a stripe of 2·K bytes, in which runs of 64 inputs of each alternate; these methods take one stripe.
/// </summary>
/// <remarks>The order is derived from the published source of Paddle's <c>weight_quantize</c>; no published file has been compared with it.</remarks>
internal static class GpuByteOrder
{
    /// <summary>K must be a multiple of this.</summary>
    public const int InputMultiple = 64;
    /// <summary>Outputs in a stripe of WINT8; N must be a multiple of this.</summary>
    public const int Outputs8 = 2;
    /// <summary>Outputs in a stripe of WINT4; N must be a multiple of this.</summary>
    public const int Outputs4 = 4;

    /// <summary>Byte of WINT8 that holds an input of an output.</summary>
    public static long ByteIndex(long input, long output, long inputs)
    {
        var kk = 16 * (input / 16) + 2 * (input % 8) + input % 16 / 8;
        return kk % 64 + 128 * (kk / 64) + 64 * (output % 2) + 2 * inputs * (output / 2);
    }

    /// <summary>Nibble of WINT4 that holds an input of an output.</summary>
    public static long NibbleIndex(long input, long output, long inputs)
    {
        var kp = 32 * (input / 32) + 4 * (input % 8) + input % 32 / 8;
        return kp % 64 + 256 * (kp / 64) + 64 * (output % 4) + 4 * inputs * (output / 4);
    }

    /// <summary>Puts one output's integers into its stripe. <paramref name="member"/> is its number in the stripe.</summary>
    public static void Pack8(ReadOnlySpan<sbyte> channel, int member, Span<byte> stripe)
    {
        for (var k = 0; k < channel.Length; k++) stripe[(int)ByteIndex(k, member, channel.Length)] = (byte)(channel[k] + 128);
    }

    /// <inheritdoc cref="Pack8"/>
    public static void Pack4(ReadOnlySpan<sbyte> channel, int member, Span<byte> stripe)
    {
        for (var k = 0; k < channel.Length; k++)
        {
            var index = (int)NibbleIndex(k, member, channel.Length);
            ref var packed = ref stripe[index / 2];
            var nibble = channel[k] + 8;
            packed = (byte)(index % 2 == 0 ? (packed & 0xF0) | nibble : (packed & 0x0F) | (nibble << 4));
        }
    }

    /// <summary>Takes one output's integers out of its stripe.</summary>
    public static void Unpack8(ReadOnlySpan<byte> stripe, int member, Span<sbyte> channel)
    {
        for (var k = 0; k < channel.Length; k += 16)
        {
            var packed = Vector128.Create(stripe.Slice(k % 64 + 128 * (k / 64) + 64 * member, 16));
            (EvenThenOdd(packed) ^ Vector128.Create((byte)0x80)).AsSByte().CopyTo(channel[k..]);
        }
    }

    /// <inheritdoc cref="Unpack8"/>
    public static void Unpack4(ReadOnlySpan<byte> stripe, int member, Span<sbyte> channel)
    {
        for (var k = 0; k < channel.Length; k += 32)
        {
            // 16 bytes hold 32 inputs: byte 2j has j (low half) and j + 8, byte 2j + 1 has j + 16 and j + 24.
            var packed = EvenThenOdd(Vector128.Create(stripe.Slice(k % 64 / 2 + 128 * (k / 64) + 32 * member, 16)));
            var low = (packed & Vector128.Create((byte)15)).AsSByte() - Vector128.Create((sbyte)8);
            var high = (packed >>> 4).AsSByte() - Vector128.Create((sbyte)8);
            Vector128.Create(low.GetLower(), high.GetLower()).CopyTo(channel[k..]);
            Vector128.Create(low.GetUpper(), high.GetUpper()).CopyTo(channel[(k + 16)..]);
        }
    }

    private static Vector128<byte> EvenThenOdd(Vector128<byte> packed) =>
        Vector128.Shuffle(packed, Vector128.Create((byte)0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}
