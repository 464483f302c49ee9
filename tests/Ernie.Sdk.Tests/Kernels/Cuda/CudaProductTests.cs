using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>linear.cu</c> and <c>experts.cu</c>, emulated, against the reference kernels.</summary>
public sealed class CudaProductTests
{
    // As for the CPU's kernels: sums in float against sums in double, |y| of order 1.
    private const double LinearTolerance = 1e-5, ExpertsTolerance = 2e-5;
    private static readonly ReferenceKernels s_reference = new();
    private static readonly TaskRunner s_runner = new(2);

    public static TheoryData<string> Formats => [.. WeightFormat.All.Select(static format => format.ToString())];

    [Theory]
    [MemberData(nameof(Formats))]
    public void Linear_EqualsReference(string name)
    {
        var (format, cuda) = (Format(name), Cuda());
        var seed = 0;
        foreach (var (tokens, rows, columns) in new[] { (1, 1, 1), (2, 5, 15), (3, 7, 17), (5, 66, 47), (8, 18, 100), (9, 33, 256), (33, 20, 70), (1, 17, 2560), (4, 35, 128), (40, 18, 384), (70, 150, 256) })
        {
            foreach (var swiGlu in new[] { false, true })
            {
                if (format.Kind == WeightKind.Int2 && columns % Wint2.InputsPerScaleByte != 0) continue;
                using var test = new LinearCase(++seed, tokens, swiGlu ? rows * 2 : rows, columns, format, swiGlu);
                TensorAssert.Near(test.Run(s_reference, s_runner), test.Run(cuda, s_runner), LinearTolerance, LinearTolerance,
                    $"{format} {(swiGlu ? "SwiGLU" : "linear")} of {tokens} tokens, {rows} × {columns}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void ATokenAlone_InEveryTiling_AndWithThreadsInFallingOrder_HasTheSameBits(string name)
    {
        var (format, cuda) = (Format(name), Cuda());
        const int tokens = 35, rows = 300, columns = 640;
        using var test = new LinearCase(6, tokens, rows, columns, format, swiGlu: true);
        var all = test.Run(cuda, s_runner);
        foreach (var tiling in Enum.GetValues<CudaTiling>()) TensorAssert.SameBits(all, test.Run(new EmulatedCudaKernels { Tiling = tiling }, s_runner), $"{format} tiled {tiling}");
        foreach (var t in new[] { 0, 7, 34 }) TensorAssert.SameBits(all.AsSpan(t * rows / 2, rows / 2), test.Run(cuda, s_runner, t, t + 1), $"{format}, token {t}");
        TensorAssert.SameBits(all, Descending(() => test.Run(cuda, s_runner)), $"{format} in falling order");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Experts_EqualReference(string name)
    {
        var (format, cuda) = (Format(name), Cuda());
        var seed = 0;
        foreach (var (tokens, hidden, intermediate, experts, perToken) in new[]
        {
            (1, 64, 32, 8, 2), (3, 18, 7, 5, 5), (1, 130, 66, 64, 6), (40, 33, 20, 16, 3), (100, 64, 48, 7, 1), (17, 100, 34, 200, 8), (2, 1, 1, 1, 1), (19, 256, 128, 8, 2), (1, 128, 384, 8, 4),
        })
        {
            if (format.Kind == WeightKind.Int2 && (hidden % Wint2.InputsPerScaleByte != 0 || intermediate % Wint2.InputsPerScaleByte != 0)) continue;
            using var test = new ExpertsCase(++seed, tokens, hidden, intermediate, experts, perToken, format);
            Near(test.Run(s_reference, s_runner), test.Run(cuda, s_runner), $"{format} {tokens} tokens, {hidden}/{intermediate}, {perToken} of {experts}", format.IsPacked);
        }
    }

    [Fact]
    public void Experts_OfAToken_HaveTheSameBitsAloneAndWithThreadsInFallingOrder()
    {
        var cuda = Cuda();
        foreach (var format in new[] { WeightFormat.BFloat16, WeightFormat.Int4(64), WeightFormat.Int2 })
        {
            const int hidden = 256;
            using var test = new ExpertsCase(9, 90, hidden, 128, 12, 4, format);
            var all = test.Run(cuda, s_runner);
            foreach (var t in new[] { 0, 41, 89 })
            {
                var alone = test.Run(cuda, s_runner, t, t + 1, 0, 12);
                TensorAssert.SameBits(all.Output.AsSpan(t * hidden, hidden), alone.Output, $"{format}, token {t}");
                Assert.Equal(all.Selected[(4 * t)..(4 * t + 4)], alone.Selected);
            }
            var falling = Descending(() => test.Run(cuda, s_runner));
            TensorAssert.SameBits(all.Output, falling.Output, $"{format} in falling order");
            TensorAssert.SameBits(all.Weights, falling.Weights, $"{format} in falling order");
        }
    }

    [Fact]
    public void Experts_OneWithAllTokensAndOneWithNone_EqualReference()
    {
        using var test = new ExpertsCase(3, 37, 48, 30, 8, 2, WeightFormat.BFloat16);
        test.Bias.Span[5] = 10;
        test.Bias.Span[2] = -10;
        var expected = test.Run(s_reference, s_runner);
        Assert.DoesNotContain(2, expected.Selected);
        Near(expected, test.Run(Cuda(), s_runner), "one with all");
    }

    [Fact]
    public void Experts_HalvesSumToTheWhole()
    {
        var cuda = Cuda();
        using var test = new ExpertsCase(4, 21, 50, 24, 8, 3, WeightFormat.Float32);
        var whole = test.Run(cuda, s_runner);
        var first = test.Run(cuda, s_runner, 0, 21, 0, 3);
        var second = test.Run(cuda, s_runner, 0, 21, 3, 8, optionalOutputs: false);
        Assert.Equal(whole.Selected, first.Selected);
        TensorAssert.Near(whole.Output, [.. first.Output.Zip(second.Output, (a, b) => a + b)], 1e-6, 1e-6, "halves");
    }

    [Fact]
    public void Experts_WithTiesAndNaN_ChooseDifferentExpertsByLowerIndex()
    {
        using var test = new ExpertsCase(4, 3, 20, 8, 20, 4, WeightFormat.Float32);
        test.Router.Span.Fill(0.25f);
        test.Bias.Span.Clear();
        test.Bias.Span[19] = 0.5f;
        test.Bias.Span[0] = float.NaN;
        test.Input.Span[20] = float.NaN;
        var result = test.Run(Cuda(), s_runner);
        Assert.Equal([19, 1, 2, 3, 0, 1, 2, 3, 19, 1, 2, 3], result.Selected);
        Assert.All(result.Output[20..40], static value => Assert.True(float.IsNaN(value)));
        Assert.All(result.Output[..20].Concat(result.Output[40..]), static value => Assert.True(float.IsFinite(value)));
    }

    [Fact]
    public void ADamagedToken_DamagesItselfAlone()
    {
        var cuda = Cuda();
        foreach (var format in new[] { WeightFormat.BFloat16, WeightFormat.Int8(32), WeightFormat.Int4(0) })
        {
            using var test = new ExpertsCase(4, 3, 64, 32, 4, 2, format);
            test.Input.Span[64 + 5] = float.PositiveInfinity;
            var output = test.Run(cuda, s_runner).Output;
            Assert.All(output[64..128], static value => Assert.True(float.IsNaN(value)));
            Assert.All(output[..64].Concat(output[128..]), static value => Assert.True(float.IsFinite(value)));
        }
    }

    private static WeightFormat Format(string name) => WeightFormat.TryParse(name, out var format) ? format : throw new ArgumentException(name);

    private static EmulatedCudaKernels Cuda()
    {
        CudaEmulation.Of("linear");
        return new EmulatedCudaKernels();
    }

    private static T Descending<T>(Func<T> run)
    {
        CudaEmulation.Descending = true;
        try { return run(); }
        finally { CudaEmulation.Descending = false; }
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
}
