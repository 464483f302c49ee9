using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// WINT2, the convolutional code (CCQ) of the 2Bits checkpoints: a byte stands for 4 consecutive inputs of one output.
/// <code>
/// word = floor(byte · code_scale[n] + code_zp[n] + 0.5)            three roundings in float32
/// v_i  = ((word >> (9 - 3i)) &amp; 63) - 32,  i = 0..3                 neighbours share three bits: that is the convolution
/// W    = (S · super_scales[n]) · v_i                               S: 4 bits for 64 inputs; float32
/// </code>
/// </summary>
internal static class Wint2
{
    /// <summary>Inputs that one byte stands for.</summary>
    public const int InputsPerByte = 4;
    /// <summary>Inputs that share a group scale of 4 bits.</summary>
    public const int GroupSize = 64;
    /// <summary>Inputs of the two groups whose scales share a byte; K must be a multiple of this.</summary>
    public const int InputsPerScaleByte = 2 * GroupSize;

    /// <summary>The 15 bits, more or fewer with unusual codes, that a byte stands for.</summary>
    public static int Word(byte code, float codeScale, float codeZeroPoint)
    {
        // Multiplied, then added: fused, the two would round once, and words that lie on an edge would differ from the published kernels'.
        var product = (float)(code * codeScale);
        var sum = (float)(product + codeZeroPoint);
        return (int)MathF.Floor(sum + 0.5f);
    }

    /// <summary>Value <paramref name="index"/> of 4 in a word, -32 to 31.</summary>
    public static int Value(int word, int index) => ((word >> (9 - 3 * index)) & 63) - 32;

    /// <summary>Scale of the group that holds <paramref name="input"/>, from its byte: the first group has the high half.</summary>
    public static int GroupScale(byte scales, long input) => input / GroupSize % 2 == 0 ? scales >> 4 : scales & 15;

    /// <summary>Decodes bytes of neighbouring outputs.</summary>
    /// <param name="codes">[outputs]</param>
    /// <param name="codeScale">[outputs]</param>
    /// <param name="codeZeroPoint">[outputs]</param>
    /// <param name="step">S · super_scales, [outputs]</param>
    /// <param name="target">[4 inputs, stride], of which as many as there are outputs are written</param>
    /// <param name="stride">Floats from one input to the next.</param>
    public static void Decode(ReadOnlySpan<byte> codes, ReadOnlySpan<float> codeScale, ReadOnlySpan<float> codeZeroPoint, ReadOnlySpan<float> step, Span<float> target, int stride)
    {
        var n = 0;
        for (; n <= codes.Length - 8; n += 8)
        {
            var bytes = Vector128.CreateScalar(MemoryMarshal.Read<ulong>(codes[n..])).AsByte();
            var (low, high) = Vector128.Widen(Vector128.WidenLower(bytes));
            var product = Vector256.ConvertToSingle(Vector256.Create(low, high).AsInt32()) * Vector256.Create(codeScale[n..]);
            var word = Vector256.ConvertToInt32(Vector256.Floor(product + Vector256.Create(codeZeroPoint[n..]) + Vector256.Create(0.5f)));
            var scale = Vector256.Create(step[n..]);
            Value(word >> 9, scale).CopyTo(target[n..]);
            Value(word >> 6, scale).CopyTo(target[(stride + n)..]);
            Value(word >> 3, scale).CopyTo(target[(2 * stride + n)..]);
            Value(word, scale).CopyTo(target[(3 * stride + n)..]);
        }
        for (; n < codes.Length; n++)
        {
            var word = Word(codes[n], codeScale[n], codeZeroPoint[n]);
            for (var i = 0; i < InputsPerByte; i++) target[i * stride + n] = step[n] * Value(word, i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Value(Vector256<int> shifted, Vector256<float> scale) =>
        Vector256.ConvertToSingle((shifted & Vector256.Create(63)) - Vector256.Create(32)) * scale;
}
