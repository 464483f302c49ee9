using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>attention.cu</c>, emulated, against the reference kernels.</summary>
public sealed class CudaAttentionTests
{
    private static readonly ReferenceKernels s_reference = new();
    private static readonly TaskRunner s_runner = new(2);
    private static readonly SparseLimits s_tight = new(3, 4, 384, 3, 5, 384);

    public static TheoryData<string> Types => [.. Enum.GetNames<KvElementType>()];

    [Theory]
    [MemberData(nameof(Types))]
    public void Attention_EqualsReference(string name)
    {
        var (type, cuda) = (Enum.Parse<KvElementType>(name), Cuda());
        // As for the CPU's kernels: a key that lies between two stored numbers may round to either.
        var tolerance = type switch { KvElementType.Float32 => 2e-5, KvElementType.BFloat16 => 2e-3, _ => 2e-2 };
        var seed = 0;
        foreach (var (heads, kvHeads, headDim) in new[] { (1, 1, 16), (10, 2, 32), (8, 1, 64), (5, 1, 128), (20, 1, 48) })
        {
            var (expected, actual) = (Mixed(s_reference, ++seed, heads, kvHeads, headDim, type), Mixed(cuda, seed, heads, kvHeads, headDim, type));
            for (var i = 0; i < expected.Length; i++) TensorAssert.Near(expected[i], actual[i], tolerance, tolerance, $"{type} {heads}/{kvHeads} heads of {headDim}, step {i}");
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void SparsePrefillAndDecode_EqualReference(string name)
    {
        var (type, cuda) = (Enum.Parse<KvElementType>(name), Cuda());
        var tolerance = type switch { KvElementType.Float32 => 2e-5, KvElementType.BFloat16 => 5e-3, _ => 5e-2 };
        foreach (var (heads, kvHeads, headDim, gated) in new[] { (5, 1, 32, false), (8, 1, 16, true), (2, 2, 16, false) })
        {
            var (expected, expectedBlocks) = Sparse(s_reference, heads, kvHeads, headDim, type, gated);
            var (actual, blocks) = Sparse(cuda, heads, kvHeads, headDim, type, gated);
            var what = $"{type} {heads}/{kvHeads} heads of {headDim}";
            // Rotated keys may round to their other neighbour, and a score near its threshold then falls on the other side.
            if (type == KvElementType.Float32) Assert.Equal(expectedBlocks, blocks);
            var same = expectedBlocks.Zip(blocks).Count(static pair => pair.First == pair.Second);
            Assert.True(same > 0.95 * blocks.Length && blocks.Length == expectedBlocks.Length, $"{what}: {same} of {blocks.Length} lists are equal.");
            if (same == blocks.Length) TensorAssert.Near(expected, actual, tolerance, tolerance, what);
        }
    }

    [Theory]
    [InlineData("gate-small")]
    [InlineData("decode-edges")]
    public void GoldenCases_KeepTheSameBlocksAndGiveTheSameOutput(string name)
    {
        var cuda = Cuda();
        var (lists, uncertain) = PlasGolden.Load(name).Check(cuda, s_runner, KvElementType.Float32, 2e-6);
        TestContext.Current.TestOutputHelper?.WriteLine($"{lists} lists, {uncertain} of them differ in uncertain blocks");
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void ADenseToken_HasTheSameBitsInPrefillAndInDecode_InAnyChunks_AndWithThreadsInFallingOrder(string name)
    {
        var (type, cuda) = (Enum.Parse<KvElementType>(name), Cuda());
        const int heads = 5, headDim = 32, length = 400, size = heads * headDim;
        AttentionCase New() => new(7, heads, 1, headDim, type, 1000);
        using AttentionCase whole = New(), chunked = New(), falling = New();
        var expected = whole.Step(cuda, s_runner, 0, length);
        chunked.Step(cuda, s_runner, 0, 256);
        TensorAssert.SameBits(expected.AsSpan(256 * size, 124 * size), chunked.Step(cuda, s_runner, 0, 124), "second chunk");
        for (var t = 380; t < length; t++) TensorAssert.SameBits(expected.AsSpan(t * size, size), chunked.Step(cuda, s_runner, [(0, 1, SequenceFlags.Decode)]), $"{type}, token {t} decoded");
        CudaEmulation.Descending = true;
        try { TensorAssert.SameBits(expected, falling.Step(cuda, s_runner, 0, length), "in falling order"); }
        finally { CudaEmulation.Descending = false; }
    }

    [Fact]
    public void DeadSequences_AreZeroAndLeaveThePoolAlone()
    {
        var cuda = Cuda();
        using var test = new AttentionCase(5, 4, 2, 16, KvElementType.BFloat16, 64, 64);
        var before = test.Pool.ToArray();
        Assert.All(test.Step(cuda, s_runner, [(0, 5, SequenceFlags.Dead), (1, 1, SequenceFlags.Dead | SequenceFlags.Decode)]), static value => Assert.Equal(0f, value));
        Assert.True(before.AsSpan().SequenceEqual(test.Pool));
    }

    [Fact]
    public void HalvesOfKvHeads_MakeTheWhole()
    {
        var cuda = Cuda();
        const int headDim = 16, tokens = 140;
        float[] Run(int begin, int end)
        {
            using var test = new AttentionCase(8, 10, 2, headDim, KvElementType.Int8, 200);
            float[] prefill = test.Step(cuda, s_runner, [(0, tokens, SequenceFlags.None)], begin, end), decode = test.Step(cuda, s_runner, [(0, 1, SequenceFlags.Decode)], begin, end);
            return [.. prefill, .. decode];
        }
        float[] whole = Run(0, 2), first = Run(0, 1), second = Run(1, 2);
        for (var t = 0; t <= tokens; t++)
        {
            TensorAssert.SameBits(whole.AsSpan(t * 10 * headDim, 5 * headDim), first.AsSpan(t * 5 * headDim, 5 * headDim), "first half");
            TensorAssert.SameBits(whole.AsSpan((t * 10 + 5) * headDim, 5 * headDim), second.AsSpan(t * 5 * headDim, 5 * headDim), "second half");
        }
    }

    /// <summary>Prefill of two sequences with a dead one between, then decode beside prefill, then decode of all.</summary>
    private static float[][] Mixed(CpuKernels kernels, int seed, int heads, int kvHeads, int headDim, KvElementType type)
    {
        using var test = new AttentionCase(seed, heads, kvHeads, headDim, type, 300, 10, 140);
        return
        [
            test.Step(kernels, s_runner, [(0, 130, SequenceFlags.None), (1, 2, SequenceFlags.Dead), (2, 1, SequenceFlags.None)]),
            test.Step(kernels, s_runner, [(2, 127, SequenceFlags.None), (0, 1, SequenceFlags.Decode)]),
            test.Step(kernels, s_runner, [(0, 1, SequenceFlags.Decode), (1, 7, SequenceFlags.None), (2, 1, SequenceFlags.Decode)]),
        ];
    }

    /// <summary>Outputs and kept blocks of a prefill in two chunks, decode steps over the edge of a block, and a few tokens at that depth.</summary>
    private static (float[] Output, string[] Blocks) Sparse(CpuKernels kernels, int heads, int kvHeads, int headDim, KvElementType type, bool gated)
    {
        using var test = new AttentionCase(3, heads, kvHeads, headDim, type, 1400)
        {
            Tokens = (sequence, position, qkv) => new SegmentRecipe(heads, kvHeads, headDim, (ulong)sequence + 1).Token(position, qkv),
            Gate = gated ? [.. RandomTensor.Floats(new Random(4), kvHeads * 128 * headDim, 1).Select(static x => x / 16 + 1f / 128)] : null,
        };
        test.Limits[0] = s_tight;
        var output = new List<float>();
        var blocks = new List<string>();
        foreach (var (count, flags) in new[] { (384, SequenceFlags.None), (382, SequenceFlags.None), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (9, SequenceFlags.None) })
        {
            output.AddRange(test.Step(kernels, s_runner, [(0, count, flags)]));
            blocks.AddRange(test.Selections.Items.Select(static s => $"{s.FirstToken} + {s.TokenCount} {(s.IsDecode ? "decode" : "prefill")} {s.Head}: {string.Join(",", s.Blocks)}"));
        }
        return ([.. output], [.. blocks]);
    }

    private static EmulatedCudaKernels Cuda()
    {
        CudaEmulation.Of("attention");
        return new EmulatedCudaKernels();
    }
}
