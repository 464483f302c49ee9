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
        var (low, high) = (0f, 0f);
        foreach (var weight in weights) (low, high) = (Math.Min(low, weight), Math.Max(high, weight));
        var peak = Math.Max(-low, high);
        var (best, bestError) = (0f, float.PositiveInfinity);
        if (peak > 0)
        {
            // Where the ranges differ, the longer one takes the side of the largest magnitude, or the other: both are tried.
            foreach (var sign in (ReadOnlySpan<float>)(-least > most ? [1f, -1f] : [1f]))
            {
                foreach (var steps in peaks)
                {
                    var scale = (float)(Half)(sign * peak / steps);
                    if (scale == 0 || !float.IsFinite(scale)) continue;
                    var error = Error(weights, scale, least, most, out _, out _);
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
        // The least squares fit to the integers chosen.
        Error(weights, best, least, most, out var product, out var square);
        var fitted = square > 0 ? (float)(Half)(product / square) : 0;
        if (fitted != 0 && float.IsFinite(fitted) && Error(weights, fitted, least, most, out _, out _) < bestError) best = fitted;
        for (var k = 0; k < weights.Length; k++) codes[k] = (sbyte)Math.Clamp(MathF.Round(weights[k] / best), least, most);
        return best;
    }

    /// <summary>Σ (w - q·s)², with Σ w·q and Σ q².</summary>
    private static float Error(ReadOnlySpan<float> weights, float scale, float least, float most, out float product, out float square)
    {
        var (errors, products, squares) = (Vector256<float>.Zero, Vector256<float>.Zero, Vector256<float>.Zero);
        var (step, low, high) = (Vector256.Create(scale), Vector256.Create(least), Vector256.Create(most));
        Span<float> tail = stackalloc float[8];
        for (var k = 0; k < weights.Length; k += 8)
        {
            Vector256<float> w;
            if (k <= weights.Length - 8) w = Vector256.Create(weights[k..]);
            else
            {
                tail.Clear();
                weights[k..].CopyTo(tail);
                w = Vector256.Create((ReadOnlySpan<float>)tail);
            }
            var q = Vector256.Min(Vector256.Max(Vector256.Round(w / step), low), high);
            var d = w - q * step;
            errors += d * d;
            products += w * q;
            squares += q * q;
        }
        (product, square) = (Sum(products), Sum(squares));
        return Sum(errors);
    }

    private static float Sum(Vector256<float> v) => ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}
