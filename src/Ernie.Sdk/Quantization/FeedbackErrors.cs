using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Quantization;

/// <summary>Errors of up to 16 outputs so far, and what they add to the errors of inputs still to be rounded. Lanes are outputs.</summary>
internal readonly unsafe ref struct FeedbackErrors
{
    private readonly float* _factor;
    private readonly float* _errors;
    private readonly int _columns;

    /// <param name="factor">L [columns, columns] of <see cref="ErrorMetric.Factor"/>, or null.</param>
    /// <param name="errors">[columns, 16] rounded minus wanted, as far as they are known.</param>
    /// <param name="columns">Inputs.</param>
    public FeedbackErrors(float* factor, float* errors, int columns)
    {
        _factor = factor;
        _errors = errors;
        _columns = columns;
    }

    /// <summary>sums[j] += Σ errors[i] · L[first + j, i] over inputs i in [begin, end), for j = 0 .. count-1; count a multiple of 4 or 1.</summary>
    /// <param name="begin">First input whose errors count.</param>
    /// <param name="end">One past the last.</param>
    /// <param name="first">Input that sums[0] belongs to.</param>
    /// <param name="count">Inputs.</param>
    /// <param name="sums">[count, 16]</param>
    public void Add(int begin, int end, int first, int count, float* sums)
    {
        var j = 0;
        for (; j + 8 <= count; j += 8)
        {
            var row = _factor + (nint)(first + j) * _columns;
            var (s0, s1, s2, s3) = (Load(sums, j), Load(sums, j + 1), Load(sums, j + 2), Load(sums, j + 3));
            var (s4, s5, s6, s7) = (Load(sums, j + 4), Load(sums, j + 5), Load(sums, j + 6), Load(sums, j + 7));
            float* r1 = row + _columns, r2 = r1 + _columns, r3 = r2 + _columns, r4 = r3 + _columns, r5 = r4 + _columns, r6 = r5 + _columns, r7 = r6 + _columns;
            for (var i = begin; i < end; i++)
            {
                var error = Load(_errors, i);
                s0 = Vector512.FusedMultiplyAdd(error, Vector512.Create(row[i]), s0);
                s1 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r1[i]), s1);
                s2 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r2[i]), s2);
                s3 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r3[i]), s3);
                s4 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r4[i]), s4);
                s5 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r5[i]), s5);
                s6 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r6[i]), s6);
                s7 = Vector512.FusedMultiplyAdd(error, Vector512.Create(r7[i]), s7);
            }
            s0.Store(sums + 16 * j);
            s1.Store(sums + 16 * (j + 1));
            s2.Store(sums + 16 * (j + 2));
            s3.Store(sums + 16 * (j + 3));
            s4.Store(sums + 16 * (j + 4));
            s5.Store(sums + 16 * (j + 5));
            s6.Store(sums + 16 * (j + 6));
            s7.Store(sums + 16 * (j + 7));
        }
        for (; j < count; j++)
        {
            var row = _factor + (nint)(first + j) * _columns;
            var sum = Load(sums, j);
            for (var i = begin; i < end; i++) sum = Vector512.FusedMultiplyAdd(Load(_errors, i), Vector512.Create(row[i]), sum);
            sum.Store(sums + 16 * j);
        }
    }

    private static Vector512<float> Load(float* values, int line) => Vector512.Load(values + 16 * (nint)line);
}
