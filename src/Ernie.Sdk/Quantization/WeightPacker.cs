using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>Turns float rows into the bytes of a <see cref="WeightFormat"/>.</summary>
internal static class WeightPacker
{
    /// <summary>Packs whole rows; <paramref name="destination"/> gets <c>source.Length / columns · RowBytes(columns)</c> bytes.</summary>
    public static void Pack(WeightFormat format, ReadOnlySpan<float> source, Span<byte> destination)
    {
        switch (format.Kind)
        {
            case WeightKind.Float32:
                MemoryMarshal.AsBytes(source).CopyTo(destination);
                break;
            case WeightKind.BFloat16:
                ToBFloat16(source, MemoryMarshal.Cast<byte, ushort>(destination));
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(format));
        }
    }

    /// <summary>Rounds to nearest, ties to even; a NaN stays one.</summary>
    public static void ToBFloat16(ReadOnlySpan<float> source, Span<ushort> destination)
    {
        destination = destination[..source.Length];
        var i = 0;
        for (; i <= source.Length - 2 * Vector256<float>.Count; i += 2 * Vector256<float>.Count)
        {
            var low = Round(Vector256.Create(source[i..]).AsUInt32());
            var high = Round(Vector256.Create(source[(i + Vector256<float>.Count)..]).AsUInt32());
            Vector256.Narrow(low, high).CopyTo(destination[i..]);
        }
        for (; i < source.Length; i++) destination[i] = ToBFloat16(source[i]);

        static Vector256<uint> Round(Vector256<uint> bits)
        {
            var rounded = (bits + Vector256.Create(0x7FFFu) + ((bits >>> 16) & Vector256<uint>.One)) >>> 16;
            var isNaN = Vector256.GreaterThan((bits & Vector256.Create(0x7FFFFFFFu)).AsInt32(), Vector256.Create(0x7F800000)).AsUInt32();
            return Vector256.ConditionalSelect(isNaN, (bits >>> 16) | Vector256.Create(0x40u), rounded);
        }
    }

    public static ushort ToBFloat16(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)((bits >> 16) | 0x40) : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
