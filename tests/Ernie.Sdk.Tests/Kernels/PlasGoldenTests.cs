using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>Selected blocks and outputs of sparse attention against numbers that two other implementations agreed on.</summary>
public sealed class PlasGoldenTests
{
    /// <summary>Rows of order 1, sums in float; a float32 implementation in numpy met 4e-7.</summary>
    private const double Tolerance = 1e-6;
    private static readonly TaskRunner Runner = new(2);

    private static readonly string[] Names =
    [
        "dense-short", "limit-edge", "mean-small", "gate-small", "mean-21b-shape", "gate-rope", "chunked-aligned", "chunked-gate-rope", "chunked-unaligned", "chunk-of-one", "left-equals-right",
        "top-one", "own-limit", "decode-edges", "decode-limit", "decode-wide", "bf16-mean", "bf16-gate", "zero-query", "long-6000", "decode-narrow", "long-16k-50-60",
    ];

    public static TheoryData<string> Cases => [.. Names];

    [Fact]
    public void Names_AreAllCases() => Assert.Equal(Names, PlasGolden.Names());

    [Theory]
    [MemberData(nameof(Cases))]
    public void Case_KeepsTheSameBlocksAndGivesTheSameOutput(string name)
    {
        var golden = PlasGolden.Load(name);
        var isLong = name.StartsWith("long-16k", StringComparison.Ordinal) && Environment.GetEnvironmentVariable("ERNIE_FULL") != "1";
        foreach (var kernels in KernelRegistry.All.Where(static kernels => kernels.IsSupported))
        {
            // The longest case takes the slow families minutes.
            if (isLong && (kernels is ReferenceKernels or VectorKernels<Lanes128>)) continue;
            var (lists, uncertain) = golden.Check(kernels, Runner, KvElementType.Float32, Tolerance);
            TestContext.Current.TestOutputHelper?.WriteLine($"{kernels.Name}: {lists} lists, {uncertain} of them differ in uncertain blocks");
        }
    }

    [Theory]
    [InlineData("bf16-mean")]
    [InlineData("bf16-gate")]
    public void ABFloat16Cache_OfExactKeys_ChangesNothing(string name)
    {
        var golden = PlasGolden.Load(name);
        Assert.True(golden.IsExactInBFloat16);
        foreach (var kernels in KernelRegistry.All.Where(kernels => kernels.IsSupported)) golden.Check(kernels, Runner, KvElementType.BFloat16, Tolerance);
    }
}
