using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Linear
//      x    [tokens, K]                          float
//      W    [N, K]                               any format; float32 and bfloat16 widened exactly, packed ones as PanelPacker.Element
//      y    [tokens, N], SwiGLU [tokens, N / 2]  float
//  Math       y = x · Wᵀ;  SwiGLU: y[n] = silu(g) · u, silu(g) = g / (1 + e^-g), g = row n, u = row N/2 + n
//             With packed weights x is replaced by its quantised form (QuantizedActivations).
//  Source     reference of ERNIE 4.5 in transformers (Ernie4_5MLP)
//  Reference  this file
//  Tolerance  the definition: sums in double, rounded to float once
internal static unsafe class ReferenceLinear
{
    public static void Run(LinearArguments a, KernelContext context)
    {
        var half = (int)(a.Weight.Rows / 2);
        var columns = (int)a.Weight.Columns;
        var inputs = new float[a.TokenCount][];
        for (var t = 0; t < a.TokenCount; t++) inputs[t] = Activations(a.Weight.Format, new ReadOnlySpan<float>(a.Input + (nint)t * columns, columns));
        context.Parallel.For((int)a.OutputSize, n =>
        {
            var weights = new float[columns];
            var up = new float[columns];
            Weights(a.Weight, n, weights);
            if (a.SwiGlu) Weights(a.Weight, half + n, up);
            for (var t = 0; t < a.TokenCount; t++)
                a.Output[t * a.OutputSize + n] = (float)(a.SwiGlu ? Silu(Dot(weights, inputs[t])) * Dot(up, inputs[t]) : Dot(weights, inputs[t]));
        });
    }

    /// <summary>The values that a product with a weight of this format uses in place of <paramref name="x"/>.</summary>
    public static float[] Activations(WeightFormat format, ReadOnlySpan<float> x)
    {
        var values = x.ToArray();
        if (!format.IsPacked) return values;
        Span<sbyte> codes = stackalloc sbyte[PanelLayout.BlockColumns];
        for (var first = 0; first < values.Length; first += PanelLayout.BlockColumns)
        {
            var block = values.AsSpan(first, Math.Min(PanelLayout.BlockColumns, values.Length - first));
            var scale = QuantizedActivations.Quantize(block, codes);
            for (var i = 0; i < block.Length; i++) block[i] = codes[i] * scale;
        }
        return values;
    }

    /// <summary>One weight row as float, [columns].</summary>
    public static void Weights(in PackedMatrix weight, nint row, Span<float> values)
    {
        switch (weight.Format.Kind)
        {
            case WeightKind.Float32:
                new ReadOnlySpan<float>(weight.Row(row), values.Length).CopyTo(values);
                break;
            case WeightKind.BFloat16:
                for (var k = 0; k < values.Length; k++) values[k] = BFloat16.ToSingle(((ushort*)weight.Row(row))[k]);
                break;
            default:
                var panel = new ReadOnlySpan<byte>(weight.Panel(row), (int)weight.Layout.PanelBytes);
                PanelPacker.Unpack(weight.Layout, panel, (int)(row % weight.SectionRows % PanelLayout.Rows), values);
                break;
        }
    }

    public static double Dot(ReadOnlySpan<float> weights, ReadOnlySpan<float> x)
    {
        double sum = 0;
        for (var k = 0; k < weights.Length; k++) sum += (double)weights[k] * x[k];
        return sum;
    }

    public static double Silu(double x) => x / (1 + Math.Exp(-x));
}
