using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>linear.cu</c> and <c>experts.cu</c>, emulated, against the reference kernels.</summary>
public sealed class CudaProductTests
{
    private static readonly TaskRunner s_runner = new(2);

    public static TheoryData<string> Formats => [.. WeightFormat.All.Select(static format => format.ToString())];

    [Theory]
    [MemberData(nameof(Formats))]
    public void Linear_EqualsReference(string name) => FindingsAssert.None(findings => Checks().Linear(Format(name), KernelShapes.CudaLinear, findings));

    [Theory]
    [MemberData(nameof(Formats))]
    public void ATokenAlone_InEveryTiling_AndWithThreadsInFallingOrder_HasTheSameBits(string name)
    {
        var (format, cuda) = (Format(name), Cuda());
        FindingsAssert.None(findings => new ProductChecks(cuda, s_runner).LinearBits(format, static tiling => new EmulatedCudaKernels { Tiling = tiling }, findings));
        using var test = new LinearCase(6, 35, 300, 640, format, swiGlu: true);
        var all = test.Run(cuda, s_runner);
        TensorAssert.SameBits(all, Descending(() => test.Run(cuda, s_runner)), $"{format} in falling order");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Experts_EqualReference(string name) => FindingsAssert.None(findings => Checks().Experts(Format(name), KernelShapes.CudaExperts, findings));

    [Fact]
    public void Experts_OfAToken_HaveTheSameBitsAloneAndWithThreadsInFallingOrder()
    {
        var cuda = Cuda();
        foreach (var format in new[] { WeightFormat.BFloat16, WeightFormat.Int4(64), WeightFormat.Int2 })
        {
            FindingsAssert.None(findings => new ProductChecks(cuda, s_runner).ExpertsBits(format, findings));
            using var test = new ExpertsCase(9, 90, 256, 128, 12, 4, format);
            var all = test.Run(cuda, s_runner);
            var falling = Descending(() => test.Run(cuda, s_runner));
            TensorAssert.SameBits(all.Output, falling.Output, $"{format} in falling order");
            TensorAssert.SameBits(all.Weights, falling.Weights, $"{format} in falling order");
        }
    }

    [Fact]
    public void Experts_UnevenAndInHalves_EqualReference() => FindingsAssert.None(static findings => Checks().UnevenExperts(findings));

    [Fact]
    public void ExpertsOfTwoDevices_AddUp() => FindingsAssert.None(static findings => ProductChecks.Parts(Cuda(), s_runner, findings));

    [Fact]
    public void SomeExperts_InSlotsOfAnyOrder_AreThoseThatAreComputed() => FindingsAssert.None(static findings => ProductChecks.Resident(Cuda(), s_runner, findings));

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

    private static ProductChecks Checks() => new(Cuda(), s_runner);

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
}
