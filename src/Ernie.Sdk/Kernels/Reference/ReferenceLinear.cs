using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Linear
//      x    [tokens, K]                          float
//      W    [N, K]                               float32 or bfloat16, widened exactly
//      y    [tokens, N], SwiGLU [tokens, N / 2]  float
//  Math       y = x · Wᵀ;  SwiGLU: y[n] = silu(g) · u, silu(g) = g / (1 + e^-g), g = row n, u = row N/2 + n
//  Source     reference of ERNIE 4.5 in transformers (Ernie4_5MLP)
//  Reference  this file
//  Tolerance  the definition: sums in double, rounded to float once
internal static unsafe class ReferenceLinear
{
    public static void Run(LinearArguments a, KernelContext context)
    {
        var half = (int)(a.Weight.Rows / 2);
        context.Parallel.For((int)a.OutputSize, n =>
        {
            for (var t = 0; t < a.TokenCount; t++)
            {
                var x = a.Input + t * a.Weight.Columns;
                a.Output[t * a.OutputSize + n] = (float)(a.SwiGlu
                    ? Silu(Dot(a.Weight, n, x)) * Dot(a.Weight, half + n, x)
                    : Dot(a.Weight, n, x));
            }
        });
    }

    /// <summary>Product of one weight row with x [columns].</summary>
    public static double Dot(in PackedMatrix weight, nint row, float* x)
    {
        double sum = 0;
        for (nint k = 0; k < weight.Columns; k++) sum += Element(weight, row, k) * x[k];
        return sum;
    }

    public static double Silu(double x) => x / (1 + Math.Exp(-x));

    private static double Element(in PackedMatrix weight, nint row, nint column) => weight.Format switch
    {
        WeightFormat.Float32 => ((float*)weight.Row(row))[column],
        WeightFormat.BFloat16 => BFloat16.ToSingle(((ushort*)weight.Row(row))[column]),
        _ => throw new NotSupportedException($"The reference kernels do not read {weight.Format}."),
    };
}
