using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>Up to 16 outputs in WINT2: what <see cref="PanelPacker.PackWint2"/> takes, with a stride of 16 outputs.</summary>
internal sealed class Wint2Rows(int columns)
{
    public const int Stride = PanelLayout.Rows;
    /// <summary>[columns / 4, 16]</summary>
    public byte[] Codes { get; } = new byte[columns / Wint2.InputsPerByte * Stride];
    /// <summary>[columns / 128, 16]</summary>
    public byte[] GroupScales { get; } = new byte[columns / Wint2.InputsPerScaleByte * Stride];
    /// <summary>[16] values of bfloat16.</summary>
    public float[] SuperScales { get; } = new float[Stride];

    /// <summary>One output's weights as every decoder sees them, [columns].</summary>
    public void Decode(int row, Span<float> weights)
    {
        for (var k = 0; k < weights.Length; k++)
        {
            var step = Wint2.GroupScale(GroupScales[k / Wint2.InputsPerScaleByte * Stride + row], k) * SuperScales[row];
            weights[k] = step * Wint2Encoder.Value(Codes[k / Wint2.InputsPerByte * Stride + row], k % Wint2.InputsPerByte);
        }
    }
}

/// <summary>
/// Encodes weights as WINT2. All outputs have the code (121, 800), so a byte is one of 256 points of four inputs; the best byte is found by looking at all of them.
/// </summary>
/// <remarks>
/// The cost of four errors e is e · M · eᵀ, where M [4, 4] is diagonal without feedback. For a step s and a point b it is s · (s · b M bᵀ - 2 · b M wᵀ) + const: the first product depends on the inputs
/// alone and is tabled once a matrix, the second one serves all steps. Steps are 15 multiples of the output's super scale; those worth trying are the seven around the group's size.
/// </remarks>
internal sealed unsafe class Wint2Encoder
{
    public const float CodeScale = 121;
    public const float CodeZeroPoint = 800;
    private const int Lanes = PanelLayout.Rows;
    private const int Points = 256;
    /// <summary>Group scales tried around the one that fits the group's size.</summary>
    private const int Window = 7;
    /// <summary>Step of a group of unit rms: the best one for bell-shaped weights.</summary>
    private const float TypicalStep = 0.06f;
    /// <summary>Group scale that a typical group shall have.</summary>
    private const float TypicalScale = 9;

    private static readonly float[] s_points = MakePoints();
    private readonly ErrorMetric _metric;
    /// <summary>[units, 256] b M bᵀ.</summary>
    private readonly float[] _norms;
    /// <summary>[units, 16] M.</summary>
    private readonly float[] _moments;

    public Wint2Encoder(ErrorMetric metric)
    {
        if (metric.Columns % Wint2.InputsPerScaleByte != 0) throw new ArgumentException($"int2 needs a multiple of {Wint2.InputsPerScaleByte} inputs; {metric.Columns} are none.", nameof(metric));
        _metric = metric;
        var units = metric.Columns / 4;
        _norms = new float[units * Points];
        _moments = new float[units * 16];
        Span<float> m = stackalloc float[16];
        for (var unit = 0; unit < units; unit++)
        {
            Moments(unit, m);
            m.CopyTo(_moments.AsSpan(unit * 16));
            for (var b = 0; b < Points; b++)
            {
                float sum = 0;
                for (var i = 0; i < 4; i++)
                {
                    for (var j = 0; j < 4; j++) sum += m[4 * i + j] * s_points[i * Points + b] * s_points[j * Points + b];
                }
                _norms[unit * Points + b] = sum;
            }
        }
    }

    /// <summary>Value <paramref name="index"/> of 4 of a byte.</summary>
    public static float Value(byte code, int index) => s_points[index * Points + code];

    /// <summary>Encodes up to 16 outputs. An output's result depends on nothing but its weights.</summary>
    /// <param name="weights">[rows, columns]</param>
    public Wint2Rows Encode(ReadOnlySpan<float> weights)
    {
        var columns = _metric.Columns;
        var rows = weights.Length / columns;
        var result = new Wint2Rows(columns);
        var scratch = new Scratch(columns);
        Span<ushort> before = stackalloc ushort[Lanes];
        for (var r = 0; r < rows; r++)
        {
            var w = weights.Slice(r * columns, columns);
            result.SuperScales[r] = FirstSuperScale(w);
            for (var k = 0; k < columns; k++) scratch.Weights[k * Lanes + r] = w[k];
        }
        // Each output's own scale is refitted to the codes; with feedback the last fit knows all correlations.
        const int Passes = 2;
        for (var pass = 0; ; pass++)
        {
            EncodeAll(rows, result, scratch, feedback: false);
            if (pass == Passes) break;
            for (var r = 0; r < rows; r++) result.SuperScales[r] = FittedSuperScale(weights.Slice(r * columns, columns), r, result);
        }
        if (!_metric.HasFeedback) return result;
        EncodeAll(rows, result, scratch, feedback: true);
        return result;
    }

    private void EncodeAll(int rows, Wint2Rows result, Scratch scratch, bool feedback)
    {
        var columns = _metric.Columns;
        var sums = stackalloc float[Wint2.GroupSize * Lanes];
        var wanted = stackalloc float[Wint2.GroupSize * Lanes];
        Span<float> w = stackalloc float[4];
        Span<float> steps = stackalloc float[Lanes];
        Span<int> nibbles = stackalloc int[Lanes];
        result.GroupScales.AsSpan().Clear();
        fixed (float* weights = scratch.Weights, errors = scratch.Errors, norms = _norms, moments = _moments, points = s_points)
        {
            var factor = _metric.Factor;
            var correction = new FeedbackErrors(factor, errors, columns);
            for (var g = 0; g < columns / Wint2.GroupSize; g++)
            {
                var begin = g * Wint2.GroupSize;
                var source = weights + begin * Lanes;
                if (feedback)
                {
                    new Span<float>(sums, Wint2.GroupSize * Lanes).Clear();
                    correction.Add(0, begin, begin, Wint2.GroupSize, sums);
                    for (var u = 0; u < Wint2.GroupSize; u += 4) Correct(factor, begin + u, sums + u * Lanes, source + u * Lanes, wanted + u * Lanes);
                    source = wanted;
                }
                for (var r = 0; r < rows; r++)
                {
                    nibbles[r] = BestScale(source, r, begin, result.SuperScales[r], norms, moments, points);
                    steps[r] = nibbles[r] * result.SuperScales[r];
                    result.GroupScales[g / 2 * Lanes + r] |= (byte)(g % 2 == 0 ? nibbles[r] << 4 : nibbles[r]);
                }
                for (var u = 0; u < Wint2.GroupSize; u += 4)
                {
                    var unit = (begin + u) / 4;
                    if (feedback && u > 0)
                    {
                        correction.Add(begin, begin + u, begin + u, 4, sums + u * Lanes);
                        Correct(factor, begin + u, sums + u * Lanes, weights + (begin + u) * Lanes, wanted + u * Lanes);
                    }
                    for (var r = 0; r < rows; r++)
                    {
                        for (var i = 0; i < 4; i++) w[i] = source[(u + i) * Lanes + r];
                        var code = BestPoint(w, steps[r], norms + unit * Points, moments + unit * 16, points);
                        result.Codes[unit * Lanes + r] = (byte)code;
                        if (!feedback) continue;
                        for (var i = 0; i < 4; i++) errors[(begin + u + i) * Lanes + r] = steps[r] * points[i * Points + code] - weights[(begin + u + i) * Lanes + r];
                    }
                }
            }
        }
    }

    /// <summary>wanted = w - c · T⁻¹ for each lane, where the lower triangle Tᵀ [4, 4] is the factor's diagonal block: what takes the sums of earlier errors to zero.</summary>
    private void Correct(float* factor, int first, float* sums, float* weights, float* wanted)
    {
        var columns = _metric.Columns;
        // L e = c of the block, by forward substitution.
        for (var j = 0; j < 4; j++)
        {
            var row = factor + (nint)(first + j) * columns + first;
            var sum = Vector512.Load(sums + j * Lanes);
            for (var i = 0; i < j; i++)
            {
                var solved = Vector512.Load(weights + i * Lanes) - Vector512.Load(wanted + i * Lanes);
                sum = Vector512.FusedMultiplyAdd(solved, Vector512.Create(-row[i]), sum);
            }
            (Vector512.Load(weights + j * Lanes) - sum * Vector512.Create(1 / row[j])).Store(wanted + j * Lanes);
        }
    }

    /// <summary>M of one unit: the block's L^T L with feedback, else diagonal.</summary>
    private void Moments(int unit, Span<float> m)
    {
        m.Clear();
        for (var i = 0; i < 4; i++)
        {
            if (!_metric.HasFeedback)
            {
                m[5 * i] = _metric.Importance[4 * unit + i];
                continue;
            }
            var factor = _metric.Factor;
            for (var j = 0; j < 4; j++)
            {
                for (var k = Math.Max(i, j); k < 4; k++)
                {
                    var row = factor + (nint)(4 * unit + k) * _metric.Columns + 4 * unit;
                    m[4 * i + j] += row[i] * row[j];
                }
            }
        }
    }

    private static int BestScale(float* source, int row, int begin, float super, float* norms, float* moments, float* points)
    {
        if (super == 0) return 1;
        var first = FirstScale(source, row, begin, super, moments);
        var best = BestScale(source, row, begin, super, norms, moments, points, first, out var cost);
        // A window whose best scale lies on its edge moves on, once: unequal importance makes unequal groups.
        var next = best == first ? Math.Max(1, first - Window + 1) : best == first + Window - 1 ? Math.Min(16 - Window, first + Window - 1) : first;
        if (next == first) return best;
        var other = BestScale(source, row, begin, super, norms, moments, points, next, out var otherCost);
        return otherCost < cost ? other : best;
    }

    /// <summary>The best of seven scales from <paramref name="first"/> on, and its cost less a constant of the group.</summary>
    private static int BestScale(float* source, int row, int begin, float super, float* norms, float* moments, float* points, int first, out float cost)
    {
        var totals = stackalloc float[Window];
        new Span<float>(totals, Window).Clear();
        Vector512<float> t0 = default, t1 = default, t2 = default, t3 = default, t4 = default, t5 = default, t6 = default;
        var (s0, s1, s2, s3) = (Step(0), Step(1), Step(2), Step(3));
        var (s4, s5, s6) = (Step(4), Step(5), Step(6));
        for (var u = 0; u < Wint2.GroupSize / 4; u++)
        {
            Products(source, row, u, moments + (begin / 4 + u) * 16, out var p0, out var p1, out var p2, out var p3);
            var norm = norms + (nint)(begin / 4 + u) * Points;
            t0 = t1 = t2 = t3 = t4 = t5 = t6 = Vector512.Create(float.PositiveInfinity);
            for (var b = 0; b < Points; b += Lanes)
            {
                var product = p0 * Vector512.Load(points + b);
                product = Vector512.FusedMultiplyAdd(p1, Vector512.Load(points + Points + b), product);
                product = Vector512.FusedMultiplyAdd(p2, Vector512.Load(points + 2 * Points + b), product);
                product = Vector512.FusedMultiplyAdd(p3, Vector512.Load(points + 3 * Points + b), product);
                var q = Vector512.Load(norm + b);
                t0 = Vector512.MinNative(t0, Vector512.FusedMultiplyAdd(s0, q, product));
                t1 = Vector512.MinNative(t1, Vector512.FusedMultiplyAdd(s1, q, product));
                t2 = Vector512.MinNative(t2, Vector512.FusedMultiplyAdd(s2, q, product));
                t3 = Vector512.MinNative(t3, Vector512.FusedMultiplyAdd(s3, q, product));
                t4 = Vector512.MinNative(t4, Vector512.FusedMultiplyAdd(s4, q, product));
                t5 = Vector512.MinNative(t5, Vector512.FusedMultiplyAdd(s5, q, product));
                t6 = Vector512.MinNative(t6, Vector512.FusedMultiplyAdd(s6, q, product));
            }
            totals[0] += Least(t0);
            totals[1] += Least(t1);
            totals[2] += Least(t2);
            totals[3] += Least(t3);
            totals[4] += Least(t4);
            totals[5] += Least(t5);
            totals[6] += Least(t6);
        }
        var best = 0;
        for (var i = 1; i < Window; i++)
        {
            if ((first + i) * totals[i] < (first + best) * totals[best]) best = i;
        }
        cost = (first + best) * totals[best];
        return first + best;

        Vector512<float> Step(int i) => Vector512.Create((first + i) * super);
    }

    /// <summary>The least of the scales to try for a group.</summary>
    private static int FirstScale(float* source, int row, int begin, float super, float* moments)
    {
        double squares = 0, weight = 0;
        for (var k = 0; k < Wint2.GroupSize; k++)
        {
            var m = moments[(begin + k) / 4 * 16 + 5 * (k % 4)];
            squares += (double)m * source[k * Lanes + row] * source[k * Lanes + row];
            weight += m;
        }
        var typical = Math.Round(TypicalStep * Math.Sqrt(squares / weight) / super);
        return (int)Math.Clamp(typical - 2, 1, 16 - Window);
    }

    /// <summary>-2 M w of one unit, each value in all lanes.</summary>
    private static void Products(float* source, int row, int unit, float* m, out Vector512<float> p0, out Vector512<float> p1, out Vector512<float> p2, out Vector512<float> p3)
    {
        var w = source + 4 * unit * Lanes + row;
        float w0 = -2 * w[0], w1 = -2 * w[Lanes], w2 = -2 * w[2 * Lanes], w3 = -2 * w[3 * Lanes];
        p0 = Vector512.Create(m[0] * w0 + m[1] * w1 + m[2] * w2 + m[3] * w3);
        p1 = Vector512.Create(m[4] * w0 + m[5] * w1 + m[6] * w2 + m[7] * w3);
        p2 = Vector512.Create(m[8] * w0 + m[9] * w1 + m[10] * w2 + m[11] * w3);
        p3 = Vector512.Create(m[12] * w0 + m[13] * w1 + m[14] * w2 + m[15] * w3);
    }

    private static int BestPoint(ReadOnlySpan<float> w, float step, float* norms, float* m, float* points)
    {
        if (step == 0) return 0;
        var p0 = Vector512.Create(-2 * (m[0] * w[0] + m[1] * w[1] + m[2] * w[2] + m[3] * w[3]));
        var p1 = Vector512.Create(-2 * (m[4] * w[0] + m[5] * w[1] + m[6] * w[2] + m[7] * w[3]));
        var p2 = Vector512.Create(-2 * (m[8] * w[0] + m[9] * w[1] + m[10] * w[2] + m[11] * w[3]));
        var p3 = Vector512.Create(-2 * (m[12] * w[0] + m[13] * w[1] + m[14] * w[2] + m[15] * w[3]));
        var s = Vector512.Create(step);
        var least = Vector512.Create(float.PositiveInfinity);
        var index = Vector512<int>.Zero;
        for (var b = 0; b < Points; b += Lanes)
        {
            var product = p0 * Vector512.Load(points + b);
            product = Vector512.FusedMultiplyAdd(p1, Vector512.Load(points + Points + b), product);
            product = Vector512.FusedMultiplyAdd(p2, Vector512.Load(points + 2 * Points + b), product);
            product = Vector512.FusedMultiplyAdd(p3, Vector512.Load(points + 3 * Points + b), product);
            var cost = Vector512.FusedMultiplyAdd(s, Vector512.Load(norms + b), product);
            var better = Vector512.LessThan(cost, least);
            least = Vector512.ConditionalSelect(better, cost, least);
            index = Vector512.ConditionalSelect(better.AsInt32(), Vector512.Create(b), index);
        }
        var value = Least(least);
        // Of equal costs the lowest byte.
        var best = Points;
        for (var lane = 0; lane < Lanes; lane++)
        {
            if (least[lane] == value) best = Math.Min(best, index[lane] + lane);
        }
        return best == Points ? 0 : best;
    }

    private static float Least(Vector512<float> a)
    {
        var b = Vector256.MinNative(a.GetLower(), a.GetUpper());
        var c = Vector128.MinNative(b.GetLower(), b.GetUpper());
        var d = Vector64.MinNative(c.GetLower(), c.GetUpper());
        return Math.Min(d[0], d[1]);
    }

    private float FirstSuperScale(ReadOnlySpan<float> w)
    {
        var rms = new float[w.Length / Wint2.GroupSize];
        for (var g = 0; g < rms.Length; g++)
        {
            double squares = 0, weight = 0;
            for (var k = g * Wint2.GroupSize; k < (g + 1) * Wint2.GroupSize; k++)
            {
                var m = _metric.Importance[k];
                squares += (double)m * w[k] * w[k];
                weight += m;
            }
            rms[g] = (float)Math.Sqrt(squares / weight);
        }
        Array.Sort(rms);
        // Groups of padding are zero and have no size.
        var first = Array.FindIndex(rms, static r => r > 0);
        if (first < 0) return 0;
        var middle = first + (rms.Length - first) / 2;
        var median = (rms.Length - first) % 2 == 1 ? rms[middle] : 0.5f * (rms[middle - 1] + rms[middle]);
        return Kernels.BFloat16.ToSingle(WeightPacker.ToBFloat16(TypicalStep * median / TypicalScale));
    }

    /// <summary>Σ m w v S / Σ m (v S)²: the super scale that suits the codes best.</summary>
    private float FittedSuperScale(ReadOnlySpan<float> w, int row, Wint2Rows encoded)
    {
        double product = 0, square = 0;
        for (var k = 0; k < w.Length; k++)
        {
            double value = Wint2.GroupScale(encoded.GroupScales[k / Wint2.InputsPerScaleByte * Lanes + row], k) * Value(encoded.Codes[k / 4 * Lanes + row], k % 4);
            product += _metric.Importance[k] * value * w[k];
            square += _metric.Importance[k] * value * value;
        }
        return product > 0 && square > 0 ? Kernels.BFloat16.ToSingle(WeightPacker.ToBFloat16((float)(product / square))) : encoded.SuperScales[row];
    }

    private static float[] MakePoints()
    {
        // [4, 256]
        var points = new float[4 * Points];
        for (var b = 0; b < Points; b++)
        {
            var word = Wint2.Word((byte)b, CodeScale, CodeZeroPoint);
            for (var i = 0; i < 4; i++) points[i * Points + b] = Wint2.Value(word, i);
        }
        return points;
    }

    private sealed class Scratch(int columns)
    {
        /// <summary>[columns, 16]</summary>
        public float[] Weights { get; } = new float[columns * Lanes];
        /// <summary>[columns, 16] decoded minus wanted.</summary>
        public float[] Errors { get; } = new float[columns * Lanes];
    }
}
