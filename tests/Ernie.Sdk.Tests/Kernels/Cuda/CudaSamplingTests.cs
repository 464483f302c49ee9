using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>sampling.cu</c>, emulated, against the sampler and its naive reference.</summary>
public sealed class CudaSamplingTests
{
    private static readonly EmulatedCudaKernels s_kernels = new();

    [Fact]
    public void Draws_EqualNaiveDraws()
    {
        CudaEmulation.Of("sampling");
        var random = new Random(31);
        var compared = 0;
        for (var round = 0; round < 120; round++)
        {
            // Logits that are multiples of 1/8 make many exact ties.
            var vocabulary = round % 4 == 0 ? random.Next(1000, 3000) : random.Next(1, 200);
            float[] logits = [.. Enumerable.Range(0, vocabulary).Select(_ => random.Next(-60, 20) / 8f)];
            var settings = new SamplingSettings
            {
                Temperature = 0.2f + 2.8f * random.NextSingle(),
                TopK = random.Next(3) == 0 ? 0 : random.Next(0, 90),
                TopP = random.Next(3) == 0 ? 1 : 0.05f + 0.95f * random.NextSingle(),
                MinP = random.Next(2) == 0 ? 0 : 0.9f * random.NextSingle(),
                Seed = (ulong)random.NextInt64(),
            };
            var draw = random.Next(1000);
            if (NaiveSampler.Draw(logits, settings, draw) is not { } wanted) continue;
            compared++;
            Assert.Equal(wanted, Sample(logits, new SamplingRequest(settings, draw)).Token);
        }
        Assert.True(compared > 100);
    }

    [Fact]
    public void Tokens_EqualTheSamplers_WithPenaltiesBiasAndAllowedTokens()
    {
        CudaEmulation.Of("sampling");
        FindingsAssert.None(static findings => SamplingChecks.Tokens(s_kernels, 700, findings));
    }

    [Fact]
    public void LogProbabilities_AreThoseOfTheLogits_AndTiesGoToTheLowerId()
    {
        CudaEmulation.Of("sampling");
        FindingsAssert.None(static findings => SamplingChecks.LogProbabilities(s_kernels, findings));
    }

    [Fact]
    public void BrokenLogits_GiveATokenOfTheVocabulary()
    {
        CudaEmulation.Of("sampling");
        foreach (var special in new[] { float.NaN, float.NegativeInfinity, float.PositiveInfinity })
        {
            var logits = new float[200];
            Array.Fill(logits, special);
            var result = Sample(logits, 200, [0..3, 10..12], [new SamplingRequest(new SamplingSettings { Temperature = 1 }, 0)])[0];
            Assert.Equal(3, result.Token);
            var allowed = new ulong[4];
            allowed[2] = 1UL << 7;
            result = Sample(logits, 200, [0..3], [new SamplingRequest(new SamplingSettings { TopP = 0.5f }, 0) { Allowed = allowed }])[0];
            Assert.Equal(135, result.Token);
        }
        // NaN among numbers counts as smallest.
        Assert.Equal(2, Sample([float.NaN, -1, 3, float.NaN], new SamplingRequest(SamplingSettings.Greedy, 0)).Token);
    }

    [Fact]
    public void ASequenceWithoutARow_IsLeftAlone_AndTheOrderOfThreadsDoesNotMatter()
    {
        CudaEmulation.Of("sampling");
        var logits = RandomTensor.Floats(new Random(3), 2 * 1500, 6);
        SamplingRequest[] requests = [new(new SamplingSettings { TopP = 0.95f, TopK = 400, Seed = 7 }, 3), new(SamplingSettings.Greedy, 0) { HasRow = false }, new(new SamplingSettings { Seed = 8 }, 4)];
        var rising = Sample(logits, 1500, [], requests);
        Assert.Equal(-1, rising[1].Token);
        CudaEmulation.Descending = true;
        try { Assert.Equal(rising.Select(static result => result.Token), Sample(logits, 1500, [], requests).Select(static result => result.Token)); }
        finally { CudaEmulation.Descending = false; }
    }

    private static SamplingResult Sample(float[] logits, SamplingRequest request) => Sample(logits, logits.Length, [], [request])[0];

    private static SamplingResult[] Sample(float[] logits, int vocabulary, Range[] undefined, SamplingRequest[] requests) => SamplingCase.Run(s_kernels, logits, vocabulary, undefined, requests);
}
