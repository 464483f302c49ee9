using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Cases;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The kernels' text, emulated with every access watched: what a GPU, which runs threads side by side and reads whole words only where they belong, would not forgive.</summary>
public sealed class CudaRaceTests : IDisposable
{
    private static readonly TaskRunner s_runner = new(1);
    private readonly EmulatedCudaKernels _cuda = new();

    public CudaRaceTests() => CudaEmulation.Watched = true;

    public static TheoryData<string> Types => [.. Enum.GetNames<KvElementType>()];

    public static TheoryData<string> Formats => [.. WeightFormat.All.Select(static format => format.ToString())];

    public void Dispose() => CudaEmulation.Watched = false;

    [Theory]
    [MemberData(nameof(Types))]
    public void Attention(string name)
    {
        CudaEmulation.Of("attention");
        foreach (var headDim in new[] { 16, 48, 128 })
        {
            using var test = new AttentionCase(7, 4, 2, headDim, Enum.Parse<KvElementType>(name), 400);
            test.Step(_cuda, s_runner, 0, 140);
            test.Step(_cuda, s_runner, [(0, 1, SequenceFlags.Decode)]);
            test.Step(_cuda, s_runner, [(0, 70, SequenceFlags.None)]);
            test.Step(_cuda, s_runner, [(0, 1, SequenceFlags.Decode)]);
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void SparseAttention(string name)
    {
        CudaEmulation.Of("attention");
        FindingsAssert.None(findings => new AttentionChecks(_cuda, s_runner).Sparse(Enum.Parse<KvElementType>(name), [(2, 2, 16, true)], findings));
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Linear(string name)
    {
        CudaEmulation.Of("linear");
        Assert.True(WeightFormat.TryParse(name, out var format));
        foreach (var tiling in Enum.GetValues<CudaTiling>())
        {
            using LinearCase whole = new(6, 35, 80, 640, format, swiGlu: true), odd = new(6, 9, 33, format.Kind == WeightKind.Int2 ? 128 : 70, format, swiGlu: false);
            var kernels = new EmulatedCudaKernels { Tiling = tiling };
            whole.Run(kernels, s_runner);
            odd.Run(kernels, s_runner);
        }
    }

    [Theory]
    [InlineData(5)]
    [InlineData(90)]
    public void Experts(int tokens)
    {
        CudaEmulation.Of("experts");
        foreach (var format in new[] { WeightFormat.BFloat16, WeightFormat.Int4(64), WeightFormat.Int2 })
        {
            using var test = new ExpertsCase(9, tokens, 256, 128, 12, 4, format);
            test.Run(_cuda, s_runner);
        }
    }

    [Theory]
    [InlineData(70)]
    [InlineData(2560)]
    public void Norm(int columns)
    {
        CudaEmulation.Of("norm");
        FindingsAssert.None(findings => NormChecks.QuantisesAsProductsDo(_cuda, 3, columns, findings));
    }

    [Fact]
    public void Sampling()
    {
        CudaEmulation.Of("sampling");
        FindingsAssert.None(findings => SamplingChecks.Tokens(_cuda, 700, findings));
        var logits = RandomTensor.Floats(new Random(3), 2 * 1500, 6);
        SamplingRequest[] requests = [new(new SamplingSettings { TopP = 0.95f, TopK = 400, Seed = 7 }, 3), new(new SamplingSettings { Seed = 8 }, 4)];
        SamplingCase.Run(_cuda, logits, 1500, [0..3, 10..12], requests);
    }
}
