using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// Symmetric integers with one fp16 scale for a group of weights: <c>w ≈ q · s</c>. The scale is the one of a list that leaves the least squared error, clipping included; it is rounded to fp16
/// before the integers are chosen.
/// </summary>
/// <remarks>Vectors are 8 wide on every machine and nothing is fused, so that sums, and with them choices, are equal everywhere.</remarks>
internal static class GroupInt
{
    /// <summary>What the largest magnitude is made to be, in steps of the scale. Below the last integer it is clipped.</summary>
    private static readonly float[] s_peaks8 = [127, 125, 122, 119, 116];
    private static readonly float[] s_peaks4 = [8.5f, 8, 7.75f, 7.5f, 7.25f, 7, 6.75f, 6.5f, 6.25f, 6, 5.75f, 5.5f];

    /// <summary>Integers -127..127.</summary>
    /// <returns>The scale, an fp16 value; infinity if the weights are too large.</returns>
    public static float Quantize8(ReadOnlySpan<float> weights, Span<sbyte> codes) => Quantize(weights, codes, s_peaks8, -127, 127);

    /// <summary>Integers -8..7. There is one more below zero: the scale is negative where that serves the group better.</summary>
    /// <returns>The scale, an fp16 value; infinity if the weights are too large.</returns>
    public static float Quantize4(ReadOnlySpan<float> weights, Span<sbyte> codes) => Quantize(weights, codes, s_peaks4, -8, 7);

    private static float Quantize(ReadOnlySpan<float> weights, Span<sbyte> codes, float[] peaks, float least, float most)
    {
        if (weights.Length % Vector256<float>.Count != 0)
        {
            // Zeros change no sum.
            Span<float> padded = stackalloc float[(weights.Length / Vector256<float>.Count + 1) * Vector256<float>.Count];
            Span<sbyte> paddedCodes = stackalloc sbyte[padded.Length];
            padded.Clear();
            weights.CopyTo(padded);
            var scale = Quantize(padded, paddedCodes, peaks, least, most);
            paddedCodes[..weights.Length].CopyTo(codes);
            return scale;
        }
        var peak = Peak(weights);
        var (best, bestError) = (0f, float.PositiveInfinity);
        if (peak > 0)
        {
            // Where there is one integer more on one side, the largest magnitude may take that side or the other: both are tried.
            for (var sign = 1; sign >= (-least > most ? -1 : 1); sign -= 2)
            {
                foreach (var steps in peaks)
                {
                    var scale = (float)(Half)(sign * peak / steps);
                    if (scale == 0 || !float.IsFinite(scale)) continue;
                    var error = Error(weights, scale, least, most);
                    if (error < bestError) (best, bestError) = (scale, error);
                }
            }
            if (best == 0 && !float.IsFinite((float)(Half)(peak / peaks[0]))) return float.PositiveInfinity;
        }
        if (best == 0)
        {
            codes[..weights.Length].Clear();
            return 0;
        }
        var fitted = (float)(Half)Fit(weights, best, least, most);
        if (fitted != 0 && float.IsFinite(fitted) && Error(weights, fitted, least, most) < bestError) best = fitted;
        Round(weights, best, least, most, codes);
        return best;
    }

    /// <summary>Σ (w - q·s)², q = round(w / s) clipped.</summary>
    private static float Error(ReadOnlySpan<float> weights, float scale, float least, float most)
    {
        var (sum, step, inverse, low, high) = (Vector256<float>.Zero, Vector256.Create(scale), Vector256.Create(1 / scale), Vector256.Create(least), Vector256.Create(most));
        ref var w = ref MemoryMarshal.GetReference(weights);
        for (nuint k = 0; k < (nuint)weights.Length; k += (nuint)Vector256<float>.Count)
        {
            var value = Vector256.LoadUnsafe(ref w, k);
            var d = value - Integer(value, inverse, low, high) * step;
            sum += d * d;
        }
        return Sum(sum);
    }

    /// <summary>The scale of least squares for the integers of another: Σ w·q / Σ q².</summary>
    private static float Fit(ReadOnlySpan<float> weights, float scale, float least, float most)
    {
        var (products, squares) = (Vector256<float>.Zero, Vector256<float>.Zero);
        var (inverse, low, high) = (Vector256.Create(1 / scale), Vector256.Create(least), Vector256.Create(most));
        for (var k = 0; k < weights.Length; k += Vector256<float>.Count)
        {
            var value = Vector256.Create(weights[k..]);
            var q = Integer(value, inverse, low, high);
            products += value * q;
            squares += q * q;
        }
        return Sum(squares) is > 0 and var square ? Sum(products) / square : 0;
    }

    private static void Round(ReadOnlySpan<float> weights, float scale, float least, float most, Span<sbyte> codes)
    {
        var (inverse, low, high) = (Vector256.Create(1 / scale), Vector256.Create(least), Vector256.Create(most));
        for (var k = 0; k < weights.Length; k += Vector256<float>.Count)
        {
            var q = Vector256.ConvertToInt32(Integer(Vector256.Create(weights[k..]), inverse, low, high));
            var words = Vector128.Narrow(q.GetLower(), q.GetUpper());
            Vector128.Narrow(words, words).GetLower().CopyTo(codes[k..]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Integer(Vector256<float> value, Vector256<float> inverse, Vector256<float> low, Vector256<float> high) =>
        Vector256.MinNative(Vector256.MaxNative(Vector256.Round(value * inverse), low), high);

    private static float Peak(ReadOnlySpan<float> weights)
    {
        var peak = Vector256<float>.Zero;
        for (var k = 0; k < weights.Length; k += Vector256<float>.Count) peak = Vector256.Max(peak, Vector256.Abs(Vector256.Create(weights[k..])));
        var largest = 0f;
        for (var i = 0; i < Vector256<float>.Count; i++) largest = Math.Max(largest, peak[i]);
        return largest;
    }

    private static float Sum(Vector256<float> v) => ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}
