using System.Buffers;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>
/// int8 and int4 in groups of consecutive inputs that share an fp16 scale: w ≈ q · scale. The scale is the best of a search under an <see cref="ErrorMetric"/>, rounded before the integers are chosen;
/// it may be negative, which puts the larger side of an int4 group on -8.
/// </summary>
/// <remarks>Rows are quantised 16 at a time, a lane each, so that a row's result depends on nothing else.</remarks>
internal static unsafe class GroupInt
{
    private const int Lanes = PanelLayout.Rows;

    /// <summary>Quantises up to 16 rows.</summary>
    /// <param name="format">int8 or int4 in groups.</param>
    /// <param name="weights">[rows, columns]</param>
    /// <param name="metric">Of the matrix' inputs.</param>
    /// <param name="codes">[rows, columns] receives q.</param>
    /// <param name="scales">[rows, groups] receives the scales, values of fp16.</param>
    public static void Quantize(WeightFormat format, ReadOnlySpan<float> weights, ErrorMetric metric, Span<sbyte> codes, Span<float> scales)
    {
        var columns = metric.Columns;
        var rows = weights.Length / columns;
        var groups = (columns + format.Group - 1) / format.Group;
        var range = format.Kind == WeightKind.Int4 ? new IntRange(-8, 7) : new IntRange(-127, 127);
        // [columns, 16]: what is to be rounded, and what rounding did to it. Rented: a matrix has hundreds of panels.
        var wanted = ArrayPool<float>.Shared.Rent(columns * Lanes);
        var errors = ArrayPool<float>.Shared.Rent(columns * Lanes);
        if (rows < Lanes) wanted.AsSpan(0, columns * Lanes).Clear();
        for (var r = 0; r < rows; r++)
        {
            for (var k = 0; k < columns; k++) wanted[k * Lanes + r] = weights[r * columns + k];
        }
        fixed (float* target = wanted, error = errors, importance = metric.Importance)
        {
            var factor = metric.Factor;
            var feedback = new FeedbackErrors(factor, error, columns);
            var sums = stackalloc float[Lanes * 128];
            var laneScales = stackalloc float[Lanes];
            for (var g = 0; g < groups; g++)
            {
                var begin = g * format.Group;
                var count = Math.Min(format.Group, columns - begin);
                // wanted: the weights less what the errors of earlier groups ask for.
                if (metric.HasFeedback)
                {
                    new Span<float>(sums, count * Lanes).Clear();
                    feedback.Add(0, begin, begin, count, sums);
                    for (var k = 0; k < count; k++)
                    {
                        var diagonal = factor[(nint)(begin + k) * columns + begin + k];
                        var corrected = Load(target, begin + k) - Load(sums, k) * Vector512.Create(1 / diagonal);
                        corrected.Store(sums + k * Lanes);
                    }
                    BestScale(sums, importance + begin, count, range).Store(laneScales);
                }
                else
                {
                    BestScale(target + begin * Lanes, importance + begin, count, range).Store(laneScales);
                }
                var scale = Vector512.Load(laneScales);
                var inverse = Inverse(scale);
                for (var r = 0; r < rows; r++) scales[r * groups + g] = laneScales[r];
                for (var k = 0; k < count; k++)
                {
                    var w = Load(target, begin + k);
                    var corrected = w;
                    if (metric.HasFeedback)
                    {
                        // Of this group's inputs only those before k have errors yet.
                        var own = Vector512<float>.Zero;
                        var row = factor + (nint)(begin + k) * columns;
                        for (var i = begin; i < begin + k; i++) own = Vector512.FusedMultiplyAdd(Load(error, i), Vector512.Create(row[i]), own);
                        corrected = Load(sums, k) - own * Vector512.Create(1 / row[begin + k]);
                    }
                    var q = Round(corrected, inverse, range);
                    (q * scale - w).Store(error + (nint)(begin + k) * Lanes);
                    for (var r = 0; r < rows; r++) codes[r * columns + begin + k] = (sbyte)q[r];
                }
            }
        }
        GC.KeepAlive(metric);
        ArrayPool<float>.Shared.Return(wanted);
        ArrayPool<float>.Shared.Return(errors);
    }

    /// <summary>w = codes · scale, [columns] of one row.</summary>
    public static void Dequantize(ReadOnlySpan<sbyte> codes, ReadOnlySpan<float> scales, int group, Span<float> weights)
    {
        for (var k = 0; k < codes.Length; k++) weights[k] = codes[k] * scales[k / group];
    }

    /// <summary>The best scale of each lane, an fp16 value; zero where all weights are.</summary>
    private static Vector512<float> BestScale(float* w, float* importance, int count, IntRange range)
    {
        var peak = Vector512<float>.Zero;
        for (var k = 0; k < count; k++) peak = Vector512.Max(peak, Vector512.Abs(Load(w, k)));
        var unit = peak / Vector512.Create((float)range.Most);
        var best = Vector512<float>.Zero;
        var bestError = Vector512.Create(float.PositiveInfinity);
        // int8 has levels enough for the peak; where an outlier shares a group of int4 with small weights, it is better cut.
        var least = range.Most > 7 ? 34 : 15;
        for (var i = 42; i >= least; i--)
        {
            // In fortieths, so that the peak itself is among them.
            var ratio = i / 40f;
            Try(Half16(unit * Vector512.Create(ratio)), ref best, ref bestError);
            if (range.Least != -range.Most) Try(Half16(unit * Vector512.Create(-ratio)), ref best, ref bestError);
        }
        for (var refit = 0; refit < 2; refit++) Try(Half16(LeastSquares(w, importance, count, best, range)), ref best, ref bestError);
        return best;

        void Try(Vector512<float> scale, ref Vector512<float> best, ref Vector512<float> bestError)
        {
            var inverse = Inverse(scale);
            var sum = Vector512<float>.Zero;
            for (var k = 0; k < count; k++)
            {
                var value = Load(w, k);
                var error = value - Round(value, inverse, range) * scale;
                sum = Vector512.FusedMultiplyAdd(error * error, Vector512.Create(importance[k]), sum);
            }
            var better = Vector512.LessThan(sum, bestError);
            best = Vector512.ConditionalSelect(better, scale, best);
            bestError = Vector512.ConditionalSelect(better, sum, bestError);
        }
    }

    /// <summary>The scale that suits the integers of <paramref name="scale"/> best: Σ m w q / Σ m q².</summary>
    private static Vector512<float> LeastSquares(float* w, float* importance, int count, Vector512<float> scale, IntRange range)
    {
        var inverse = Inverse(scale);
        Vector512<float> product = Vector512<float>.Zero, square = Vector512<float>.Zero;
        for (var k = 0; k < count; k++)
        {
            var value = Load(w, k);
            var q = Round(value, inverse, range);
            var weighted = q * Vector512.Create(importance[k]);
            product = Vector512.FusedMultiplyAdd(weighted, value, product);
            square = Vector512.FusedMultiplyAdd(weighted, q, square);
        }
        return Vector512.ConditionalSelect(Vector512.GreaterThan(square, Vector512<float>.Zero), product / square, scale);
    }

    private static Vector512<float> Round(Vector512<float> value, Vector512<float> inverse, IntRange range) =>
        Vector512.Min(Vector512.Max(Vector512.Round(value * inverse), Vector512.Create((float)range.Least)), Vector512.Create((float)range.Most));

    private static Vector512<float> Inverse(Vector512<float> scale) =>
        Vector512.ConditionalSelect(Vector512.Equals(scale, Vector512<float>.Zero), Vector512<float>.Zero, Vector512.Create(1f) / scale);

    private static Vector512<float> Half16(Vector512<float> scale)
    {
        var lanes = stackalloc float[Lanes];
        scale.Store(lanes);
        for (var i = 0; i < Lanes; i++) lanes[i] = (float)(Half)Math.Clamp(lanes[i], (float)Half.MinValue, (float)Half.MaxValue);
        return Vector512.Load(lanes);
    }

    private static Vector512<float> Load(float* values, int line) => Vector512.Load(values + Lanes * (nint)line);

    private readonly record struct IntRange(int Least, int Most);
}
