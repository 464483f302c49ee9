using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>The order of additions: equal bits whatever the neighbours, chunks, threads and instruction set.</summary>
public sealed class KernelBitsTests
{
    private static readonly TaskRunner Runner = new(2);
    private static readonly IParallelRunner[] Runners = [SerialRunner.Instance, new TaskRunner(2), new TaskRunner(5)];

    public static TheoryData<string> Families => KernelConformanceTests.Families;

    /// <summary>All families that this machine runs and that promise equal bits; the first is the one to compare with.</summary>
    private static CpuKernels[] Vector { get; } = [.. KernelRegistry.All.Where(kernels => kernels.IsSupported && kernels is not ReferenceKernels)];

    [Theory]
    [MemberData(nameof(Families))]
    public void Linear_OfTokensAlone_EqualsBatch(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var format in WeightFormat.All)
        {
            foreach (var swiGlu in new[] { false, true })
            {
                const int tokens = 39;
                using var test = new LinearCase(1, tokens, 146, format.Kind == WeightKind.Int2 ? 256 : 203, format, swiGlu);
                var whole = test.Run(kernels, Runner);
                var size = whole.Length / tokens;
                foreach (var chunk in new[] { 1, 2, 3, 5, 16, 38 })
                {
                    for (var t = 0; t < tokens; t += chunk)
                    {
                        var end = Math.Min(tokens, t + chunk);
                        TensorAssert.SameBits(whole.AsSpan(t * size, (end - t) * size), test.Run(kernels, Runner, t, end), $"{format} tokens {t} to {end}");
                    }
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_OfTokensAlone_EqualBatch(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var format in WeightFormat.All)
        {
            const int tokens = 45;
            var (hidden, intermediate) = format.Kind == WeightKind.Int2 ? (256, 128) : (68, 37);
            using var test = new ExpertsCase(2, tokens, hidden, intermediate, 16, 3, format);
            var whole = test.Run(kernels, Runner);
            foreach (var chunk in new[] { 1, 2, 7, 44 })
            {
                for (var t = 0; t < tokens; t += chunk)
                {
                    var end = Math.Min(tokens, t + chunk);
                    var part = test.Run(kernels, Runner, t, end, 0, 16);
                    TensorAssert.SameBits(whole.Output.AsSpan(t * hidden, (end - t) * hidden), part.Output, $"{format} tokens {t} to {end}");
                    Assert.Equal(whole.Selected[(t * 3)..(end * 3)], part.Selected);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Experts_InSeveralScratchChunks_EqualTokensAlone(string family)
    {
        // 8 experts a token of 1024 + 1024 floats: 65 KB a token, so 1100 tokens take three chunks of 32 MB.
        var kernels = KernelFamilies.Supported(family);
        const int tokens = 1100, hidden = 1024;
        using var test = new ExpertsCase(2, tokens, hidden, 8, 8, 8, WeightFormat.BFloat16);
        var whole = test.Run(kernels, Runner);
        foreach (var t in new[] { 0, 399, 400, 499, 500, 900, 1000, 1099 })
            TensorAssert.SameBits(whole.Output.AsSpan(t * hidden, hidden), test.Run(kernels, Runner, t, t + 1, 0, 8).Output, $"token {t}");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_InChunksAndTokenByToken_EqualsInOne(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            foreach (var (heads, kvHeads, headDim) in new[] { (5, 1, 18), (8, 2, 32), (2, 2, 16) })
            {
                const int length = 1300;
                var whole = InChunks(kernels, Runner, heads, kvHeads, headDim, elementType, length, length);
                foreach (var chunk in new[] { 1, 128, 256, 77 })
                    TensorAssert.SameBits(whole, InChunks(kernels, Runner, heads, kvHeads, headDim, elementType, length, chunk), $"{elementType} {heads}/{kvHeads}/{headDim} in chunks of {chunk}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Attention_BesideOtherSequences_EqualsAlone(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        const int size = 10 * 32;
        using var together = new AttentionCase(9, 10, 2, 32, KvElementType.BFloat16, 1500, 40, 300);
        var first = together.Step(kernels, Runner, [(0, 1200, SequenceFlags.None), (1, 3, SequenceFlags.None), (2, 200, SequenceFlags.None)]);
        var second = together.Step(kernels, Runner, [(2, 1, SequenceFlags.Decode), (1, 5, SequenceFlags.None), (0, 1, SequenceFlags.Decode)]);
        using var alone = new AttentionCase(9, 10, 2, 32, KvElementType.BFloat16, 1500, 40, 300);
        TensorAssert.SameBits(first.AsSpan(0, 1200 * size), alone.Step(kernels, Runner, 0, 1200), "sequence 0");
        TensorAssert.SameBits(first.AsSpan(1203 * size), alone.Step(kernels, Runner, 2, 200), "sequence 2");
        TensorAssert.SameBits(second.AsSpan(6 * size), alone.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]), "sequence 0, decode");
        TensorAssert.SameBits(second.AsSpan(0, size), alone.Step(kernels, Runner, [(2, 1, SequenceFlags.Decode)]), "sequence 2, decode");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Threads_DoNotChangeBits(string family)
    {
        foreach (var format in WeightFormat.All) WithThreads(KernelFamilies.Supported(family), format);
    }

    private static void WithThreads(CpuKernels kernels, WeightFormat format)
    {
        var (columns, hidden, intermediate) = format.Kind == WeightKind.Int2 ? (128, 128, 384) : (129, 68, 300);
        using var linear = new LinearCase(1, 9, 700, columns, format, swiGlu: true);
        using var experts = new ExpertsCase(2, 33, hidden, intermediate, 16, 3, format);
        var results = Runners.Select(runner =>
        (
            linear.Run(kernels, runner),
            experts.Run(kernels, runner).Output,
            InChunks(kernels, runner, 5, 1, 16, KvElementType.BFloat16, 2100, 2099)
        )).ToArray();
        foreach (var result in results[1..])
        {
            TensorAssert.SameBits(results[0].Item1, result.Item1, "linear");
            TensorAssert.SameBits(results[0].Item2, result.Item2, "experts");
            TensorAssert.SameBits(results[0].Item3, result.Item3, "attention");
        }
    }

    [Fact]
    public void InstructionSets_DoNotChangeBits()
    {
        Assert.SkipWhen(Vector.Length < 2, "This machine runs one family of vector kernels only.");
        foreach (var format in WeightFormat.All)
        {
            var (columns, hidden, intermediate) = format.Kind == WeightKind.Int2 ? (256, 384, 128) : (203, 68, 37);
            using var linear = new LinearCase(1, 9, 134, columns, format, swiGlu: false);
            using var swiGlu = new LinearCase(2, 9, 134, columns, format, swiGlu: true);
            using var large = new LinearCase(3, 9, 134, columns, format, swiGlu: true, scale: 300);
            using var experts = new ExpertsCase(2, 33, hidden, intermediate, 20, 3, format);
            var elementType = format == WeightFormat.BFloat16 ? KvElementType.BFloat16 : KvElementType.Float32;
            float[][] Run(CpuKernels kernels)
            {
                var routed = experts.Run(kernels, Runner);
                return
                [
                    linear.Run(kernels, Runner), swiGlu.Run(kernels, Runner), large.Run(kernels, Runner), routed.Output, routed.Weights,
                    InChunks(kernels, Runner, 5, 1, 18, elementType, 1300, 700), InChunks(kernels, Runner, 8, 2, 64, elementType, 300, 299),
                ];
            }
            var expected = Run(Vector[0]);
            foreach (var kernels in Vector[1..])
            {
                var actual = Run(kernels);
                for (var i = 0; i < expected.Length; i++) TensorAssert.SameBits(expected[i], actual[i], $"{kernels.Name} against {Vector[0].Name}, {format}, output {i}");
            }
        }
    }

    private static float[] InChunks(CpuKernels kernels, IParallelRunner runner, int heads, int kvHeads, int headDim, KvElementType elementType, int length, int chunk)
    {
        using var test = new AttentionCase(6, heads, kvHeads, headDim, elementType, length);
        var output = new List<float>();
        for (var done = 0; done < length; done += chunk) output.AddRange(test.Step(kernels, runner, 0, Math.Min(chunk, length - done)));
        return [.. output];
    }
}
