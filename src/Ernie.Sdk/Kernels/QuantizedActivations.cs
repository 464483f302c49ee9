using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Quantised activations: what packed weights are multiplied with
//      x      [columns]     float
//      q      [columns']    int8     columns padded with zeros to blocks of 32
//      scale  [blocks]      float
//  Math       a = max |x| of a block;  q = round(x · (127 / a)), ties to even;  scale = a · (1 / 127).  Blocks with a < 2^-100 are zero.
//             NaN or infinity in a block makes its scale NaN, so that damage shows in every output.
//  Source     Q8_0 activations of llama.cpp, with a float scale
//  Tolerance  part of the operators' definition: every kernel has these bits
internal static class QuantizedActivations
{
    /// <summary>Blocks whose largest magnitude is below this are zero: 127 / a must stay finite.</summary>
    public const float Smallest = 7.8886090522101181e-31f;

    /// <summary>One block of at most 32 values; the rest of <paramref name="codes"/> [32] becomes zero.</summary>
    public static float Quantize(ReadOnlySpan<float> x, Span<sbyte> codes)
    {
        float largest = 0, poison = 0;
        foreach (var value in x)
        {
            largest = Math.Max(largest, Math.Abs(value));
            poison += value * 0;
        }
        codes[..PanelLayout.BlockColumns].Clear();
        if (!float.IsFinite(largest) || poison != 0) return float.NaN;
        if (largest < Smallest) return 0;
        var inverse = 127 / largest;
        for (var i = 0; i < x.Length; i++) codes[i] = (sbyte)MathF.Round(x[i] * inverse);
        return largest * (1 / 127f);
    }
}
