using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>Every kernel family against the reference.</summary>
public sealed class KernelConformanceTests
{
    private const double LinearTolerance = ProductChecks.LinearTolerance;

    private static readonly ReferenceKernels Reference = new();
    private static readonly TaskRunner Runner = new(2);

    public static TheoryData<string> Families => [.. KernelRegistry.All.Where(kernels => kernels is not ReferenceKernels).Select(kernels => kernels.Name)];

    [Theory]
    [MemberData(nameof(Families))]
    public void AddRmsNorm_EqualsReference(string family)
    {
        var kernels = Supported(family);
        foreach (var (tokens, columns) in NormChecks.Shapes) FindingsAssert.None(findings => NormChecks.EqualsReference(kernels, Runner, tokens, columns, findings));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_EqualsReference(string family)
    {
        var checks = new ProductChecks(Supported(family), Runner);
        foreach (var format in WeightFormat.All) FindingsAssert.None(findings => checks.Linear(format, KernelShapes.Linear, findings));
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

    /// <summary>More groups than sums of a tile have room for, so that scales are applied in several parts.</summary>
    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_OfLongRows_EqualsReference(string family)
    {
        var kernels = Supported(family);
        foreach (var format in WeightFormat.All)
        {
            var columns = format.Kind == WeightKind.Int2 ? 17_536 : 8_230;
            foreach (var tokens in new[] { 1, 2, 3, 9 })
            {
                using var test = new LinearCase(7 + tokens, tokens, 34, columns, format, swiGlu: false);
                TensorAssert.Near(test.Run(Reference, Runner), test.Run(kernels, Runner), LinearTolerance, LinearTolerance, $"{family}: {format}, {tokens} tokens, {columns} columns");
            }
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
        var checks = new AttentionChecks(Supported(family), Runner);
        foreach (var elementType in Enum.GetValues<KvElementType>()) FindingsAssert.None(findings => checks.Dense(elementType, KernelShapes.Attention, findings));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_OfALongSequence_EqualsReference(string family)
    {
        var checks = new AttentionChecks(Supported(family), Runner);
        FindingsAssert.None(checks.Long);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_OfDeadSequences_IsZeroAndLeavesThePoolAlone(string family)
    {
        var checks = new AttentionChecks(Supported(family), Runner);
        FindingsAssert.None(checks.Dead);
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
        var checks = new ProductChecks(Supported(family), Runner);
        foreach (var format in WeightFormat.All) FindingsAssert.None(findings => checks.Experts(format, KernelShapes.Experts, findings));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_UnevenAndInHalves_EqualReference(string family)
    {
        var checks = new ProductChecks(Supported(family), Runner);
        FindingsAssert.None(checks.UnevenExperts);
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

    private static CpuKernels Supported(string family) => KernelFamilies.Supported(family);
}
