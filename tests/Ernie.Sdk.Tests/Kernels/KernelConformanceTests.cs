using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>Every kernel family against the reference.</summary>
public sealed class KernelConformanceTests
{
    // Sums in float against sums in double, |y| of order 1.
    private const double LinearTolerance = 1e-5, ExpertsTolerance = 2e-5, AttentionTolerance = 2e-5;
    // A key that lies between two bfloat16 may round to either of them: 2^-9 of |k| ≤ 3 in one of headDim products.
    private const double BFloat16CacheTolerance = 2e-3;
    // The same, of 127 steps.
    private const double Int8CacheTolerance = 2e-2;

    private static readonly ReferenceKernels Reference = new();
    private static readonly TaskRunner Runner = new(2);

    private static readonly Lazy<float[][]> LongReference = new(() => Long(Reference));

    public static TheoryData<string> Families => [.. KernelRegistry.All.Where(kernels => kernels is not ReferenceKernels).Select(kernels => kernels.Name)];

    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_EqualsReference(string family)
    {
        var kernels = Supported(family);
        foreach (var format in WeightFormat.All)
        {
            var seed = 0;
            foreach (var (tokens, rows, columns) in new[]
            {
                (1, 1, 1), (1, 5, 15), (2, 3, 16), (3, 7, 17), (4, 64, 64), (5, 66, 47), (7, 129, 100), (16, 130, 33), (17, 258, 256), (33, 31, 70), (1, 300, 4096), (6, 18, 2560), (3, 35, 128), (20, 50, 384),
            })
            {
                foreach (var swiGlu in new[] { false, true })
                {
                    if (format.Kind == WeightKind.Int2 && columns % Wint2.InputsPerScaleByte != 0) continue;
                    using var test = new LinearCase(++seed, tokens, swiGlu ? rows * 2 : rows, columns, format, swiGlu);
                    TensorAssert.Near(test.Run(Reference, Runner), test.Run(kernels, Runner), LinearTolerance, LinearTolerance,
                        $"{family} {format} {(swiGlu ? "SwiGLU" : "linear")} of {tokens} tokens, {rows} × {columns}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_OnRandomShapes_EqualsReference(string family)
    {
        var kernels = Supported(family);
        var random = new Random(20);
        for (var seed = 100; seed < 160; seed++)
        {
            int tokens = random.Next(1, 40), rows = 2 * random.Next(1, 100), columns = random.Next(1, 200);
            var format = WeightFormat.All[random.Next(WeightFormat.All.Count)];
            if (format.Kind == WeightKind.Int2) columns = columns / 100 * 128 + 128;
            var swiGlu = random.Next(2) == 0;
            using var test = new LinearCase(seed, tokens, rows, columns, format, swiGlu);
            TensorAssert.Near(test.Run(Reference, Runner), test.Run(kernels, Runner), LinearTolerance, LinearTolerance,
                $"{family} seed {seed}: {format} {(swiGlu ? "SwiGLU" : "linear")} of {tokens} tokens, {rows} × {columns}");
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_SwiGlu_OfLargeGates_Saturates(string family)
    {
        var kernels = Supported(family);
        using var test = new LinearCase(3, 9, 64, 40, WeightFormat.Float32, swiGlu: true, scale: 400);
        TensorAssert.Near(test.Run(Reference, Runner), test.Run(kernels, Runner), 1e-2, 1e-5, family);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_EqualsReference(string family)
    {
        var kernels = Supported(family);
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            var seed = 0;
            foreach (var (heads, kvHeads, headDim) in new[]
            {
                (1, 1, 2), (4, 4, 6), (8, 2, 16), (5, 1, 18), (8, 1, 20), (10, 2, 32), (8, 1, 64), (20, 4, 128), (3, 1, 40), (40, 1, 16),
            })
            {
                var expected = Mixed(Reference, ++seed, heads, kvHeads, headDim, elementType);
                var actual = Mixed(kernels, seed, heads, kvHeads, headDim, elementType);
                var tolerance = elementType switch { KvElementType.Float32 => AttentionTolerance, KvElementType.BFloat16 => BFloat16CacheTolerance, _ => Int8CacheTolerance };
                for (var i = 0; i < expected.Length; i++)
                    TensorAssert.Near(expected[i], actual[i], tolerance, tolerance, $"{family} {elementType} {heads}/{kvHeads} heads of {headDim}, step {i}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_OfALongSequence_EqualsReference(string family)
    {
        var kernels = Supported(family);
        var (expected, actual) = (LongReference.Value, Long(kernels));
        for (var i = 0; i < expected.Length; i++)
            TensorAssert.Near(expected[i], actual[i], AttentionTolerance, AttentionTolerance, $"{family}, step {i} of prefill, decode, short prefill at depth");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_OfDeadSequences_IsZeroAndLeavesThePoolAlone(string family)
    {
        var kernels = Supported(family);
        using var test = new AttentionCase(5, 4, 2, 16, KvElementType.Float32, 64, 64);
        var before = test.Pool.ToArray();
        var output = test.Step(kernels, Runner, [(0, 5, SequenceFlags.Dead), (1, 1, SequenceFlags.Dead | SequenceFlags.Decode)]);
        Assert.All(output, value => Assert.Equal(0f, value));
        Assert.True(before.AsSpan().SequenceEqual(test.Pool));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_HalvesOfKvHeads_MakeTheWhole(string family)
    {
        var kernels = Supported(family);
        const int headDim = 18, tokens = 150;
        float[] Run(int begin, int end)
        {
            using var test = new AttentionCase(8, 20, 4, headDim, KvElementType.BFloat16, 200);
            return test.Step(kernels, Runner, [(0, tokens, SequenceFlags.None)], begin, end);
        }
        float[] whole = Run(0, 4), first = Run(0, 2), second = Run(2, 4);
        for (var t = 0; t < tokens; t++)
        {
            TensorAssert.SameBits(whole.AsSpan(t * 20 * headDim, 10 * headDim), first.AsSpan(t * 10 * headDim, 10 * headDim), "first half");
            TensorAssert.SameBits(whole.AsSpan(t * 20 * headDim + 10 * headDim, 10 * headDim), second.AsSpan(t * 10 * headDim, 10 * headDim), "second half");
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_OfABlockOutsideThePool_Throws(string family)
    {
        var kernels = Supported(family);
        using var test = new AttentionCase(5, 1, 1, 16, KvElementType.Float32, 128);
        Assert.Contains("pool", Assert.Throws<InvalidOperationException>(() => test.Step(kernels, Runner, 0, 129)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_EqualReference(string family)
    {
        var kernels = Supported(family);
        foreach (var format in WeightFormat.All)
        {
            var seed = 0;
            foreach (var (tokens, hidden, intermediate, experts, perToken) in new[]
            {
                (1, 64, 32, 8, 2), (3, 18, 7, 5, 5), (1, 130, 66, 64, 6), (40, 33, 20, 16, 3), (100, 64, 48, 7, 1), (17, 100, 130, 64, 6), (2, 1, 1, 1, 1), (19, 256, 128, 8, 2), (1, 128, 384, 8, 4),
            })
            {
                if (format.Kind == WeightKind.Int2 && (hidden % Wint2.InputsPerScaleByte != 0 || intermediate % Wint2.InputsPerScaleByte != 0)) continue;
                using var test = new ExpertsCase(++seed, tokens, hidden, intermediate, experts, perToken, format);
                var what = $"{family} {format} {tokens} tokens, {hidden}/{intermediate}, {perToken} of {experts}";
                Near(test.Run(Reference, Runner), test.Run(kernels, Runner), what, format.IsPacked);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_OneWithAllTokensAndOneWithNone_EqualReference(string family)
    {
        var kernels = Supported(family);
        using var test = new ExpertsCase(3, 37, 48, 30, 8, 2, WeightFormat.BFloat16);
        test.Bias.Span[5] = 10;
        test.Bias.Span[2] = -10;
        var expected = test.Run(Reference, Runner);
        Assert.All(Enumerable.Range(0, 37), t => Assert.Equal(5, expected.Selected[2 * t]));
        Assert.DoesNotContain(2, expected.Selected);
        Near(expected, test.Run(kernels, Runner), family);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_HalvesSumToTheWhole(string family)
    {
        var kernels = Supported(family);
        using var test = new ExpertsCase(4, 21, 50, 24, 8, 3, WeightFormat.Float32);
        var whole = test.Run(kernels, Runner);
        var first = test.Run(kernels, Runner, 0, 21, 0, 3);
        var second = test.Run(kernels, Runner, 0, 21, 3, 8, optionalOutputs: false);
        Assert.Equal(whole.Selected, first.Selected);
        TensorAssert.Near(whole.Output, [.. first.Output.Zip(second.Output, (a, b) => a + b)], 1e-6, 1e-6, family);
        Near(test.Run(Reference, Runner, 0, 21, 0, 3), first, family);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_WithTiesAndNaN_ChooseDifferentExpertsByLowerIndex(string family)
    {
        var kernels = Supported(family);
        using var test = new ExpertsCase(4, 3, 20, 8, 20, 4, WeightFormat.Float32);
        test.Router.Span.Fill(0.25f);
        test.Bias.Span.Clear();
        test.Bias.Span[19] = 0.5f;
        test.Bias.Span[0] = float.NaN;
        test.Input.Span[20] = float.NaN;
        foreach (var each in new CpuKernels[] { Reference, kernels })
        {
            var result = test.Run(each, Runner);
            Assert.Equal([19, 1, 2, 3, 0, 1, 2, 3, 19, 1, 2, 3], result.Selected);
            Assert.All(result.Output[20..40], value => Assert.True(float.IsNaN(value)));
            Assert.All(result.Output[..20].Concat(result.Output[40..]), value => Assert.True(float.IsFinite(value)));
        }
    }

    /// <summary>Prefill of two sequences with a dead one between, then decode beside prefill, then decode of all.</summary>
    private static float[][] Mixed(CpuKernels kernels, int seed, int heads, int kvHeads, int headDim, KvElementType elementType)
    {
        using var test = new AttentionCase(seed, heads, kvHeads, headDim, elementType, 300, 10, 140);
        return
        [
            test.Step(kernels, Runner, [(0, 130, SequenceFlags.None), (1, 2, SequenceFlags.Dead), (2, 1, SequenceFlags.None)]),
            test.Step(kernels, Runner, [(2, 127, SequenceFlags.None), (0, 1, SequenceFlags.Decode)]),
            test.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode), (1, 7, SequenceFlags.None), (2, 1, SequenceFlags.Decode)]),
        ];
    }

    /// <summary>A prefill over three splits of the cache, a decode step, and a few tokens at that depth.</summary>
    private static float[][] Long(CpuKernels kernels)
    {
        using var test = new AttentionCase(77, 5, 1, 16, KvElementType.Float32, 2400);
        return [test.Step(kernels, Runner, 0, 2145), test.Step(kernels, Runner, 0, 1), test.Step(kernels, Runner, 0, 9)];
    }

    private static void Near(ExpertsResult expected, ExpertsResult actual, string what, bool isPacked = false)
    {
        Assert.Equal(expected.Selected, actual.Selected);
        TensorAssert.Near(expected.Weights, actual.Weights, 1e-6, 1e-6, what + " weights");
        if (!isPacked)
        {
            TensorAssert.Near(expected.Output, actual.Output, ExpertsTolerance, ExpertsTolerance, what);
            return;
        }
        // The activations between the two products are quantised: where one lies on an edge, the last bit of silu decides, and a whole step of it reaches the outputs of that token.
        var far = expected.Output.Zip(actual.Output).Count(pair => Math.Abs(pair.First - pair.Second) > ExpertsTolerance + ExpertsTolerance * Math.Abs(pair.First));
        Assert.True(far <= expected.Output.Length / 8, $"{what}: {far} of {expected.Output.Length} outputs differ by more than {ExpertsTolerance}.");
        TensorAssert.Near(expected.Output, actual.Output, 0.004 * expected.Output.Max(Math.Abs), ExpertsTolerance, what);
    }

    private static CpuKernels Supported(string family) => KernelFamilies.Supported(family);
}
