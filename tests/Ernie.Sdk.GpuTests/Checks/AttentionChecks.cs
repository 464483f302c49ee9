using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>Attention of a kernel family against the reference.</summary>
internal sealed class AttentionChecks(CpuKernels kernels, IParallelRunner runner)
{
    private static readonly ReferenceKernels s_reference = new();
    private static readonly Lazy<float[][]> s_long = new(static () => LongRun(s_reference, new TaskRunner(2)));
    private static readonly SparseLimits s_tight = new(3, 4, 384, 3, 5, 384);
    private static readonly (int Count, SequenceFlags Flags)[] s_sparseSteps = [(384, SequenceFlags.None), (382, SequenceFlags.None), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (9, SequenceFlags.None)];

    /// <summary>
    /// Sums in float against sums in double. A cached key that lies between two bfloat16 may round to either of them: 2^-9 of |k| ≤ 3 in one of headDim products; the same of 127 steps in int8.
    /// </summary>
    public static double Tolerance(KvElementType type) => type switch { KvElementType.Float32 => 2e-5, KvElementType.BFloat16 => 2e-3, _ => 2e-2 };

    public void Dense(KvElementType type, IEnumerable<(int Heads, int KvHeads, int HeadDim)> shapes, Findings findings)
    {
        var seed = 0;
        foreach (var (heads, kvHeads, headDim) in shapes)
        {
            var (expected, actual) = (Mixed(s_reference, ++seed, heads, kvHeads, headDim, type), Mixed(kernels, seed, heads, kvHeads, headDim, type));
            for (var i = 0; i < expected.Length; i++) findings.Near(expected[i], actual[i], Tolerance(type), Tolerance(type), $"{kernels.Name} {type} {heads}/{kvHeads} heads of {headDim}, step {i}");
        }
    }

    /// <summary>A prefill over three splits of the cache, a decode step, and a few tokens at that depth.</summary>
    public void Long(Findings findings)
    {
        var (expected, actual) = (s_long.Value, LongRun(kernels, runner));
        for (var i = 0; i < expected.Length; i++) findings.Near(expected[i], actual[i], Tolerance(KvElementType.Float32), Tolerance(KvElementType.Float32), $"{kernels.Name}, step {i} of prefill, decode, short prefill at depth");
    }

    public void Sparse(KvElementType type, IEnumerable<(int Heads, int KvHeads, int HeadDim, bool IsGated)> shapes, Findings findings)
    {
        var tolerance = type switch { KvElementType.Float32 => 2e-5, KvElementType.BFloat16 => 5e-3, _ => 5e-2 };
        foreach (var (heads, kvHeads, headDim, isGated) in shapes)
        {
            var (expected, expectedBlocks) = SparseRun(s_reference, heads, kvHeads, headDim, type, isGated);
            var (actual, blocks) = SparseRun(kernels, heads, kvHeads, headDim, type, isGated);
            var what = $"{type} {heads}/{kvHeads} heads of {headDim}";
            // Rotated keys may round to their other neighbour, and a score near its threshold then falls on the other side.
            if (type == KvElementType.Float32) findings.Same(expectedBlocks, blocks, $"{what}, kept blocks");
            var same = expectedBlocks.Zip(blocks).Count(static pair => pair.First == pair.Second);
            findings.True(same > 0.95 * blocks.Length && blocks.Length == expectedBlocks.Length, $"{what}: {same} of {blocks.Length} lists are equal.");
            if (same == blocks.Length) findings.Near(expected, actual, tolerance, tolerance, what);
        }
    }

    /// <summary>A dense token has the same bits in prefill and in decode, in any chunks.</summary>
    public void Bits(KvElementType type, Findings findings)
    {
        const int heads = 5, headDim = 32, length = 400, size = heads * headDim;
        AttentionCase New() => new(7, heads, 1, headDim, type, 1000);
        using AttentionCase whole = New(), chunked = New();
        var expected = whole.Step(kernels, runner, 0, length);
        chunked.Step(kernels, runner, 0, 256);
        findings.SameBits(expected.AsSpan(256 * size, 124 * size), chunked.Step(kernels, runner, 0, 124), $"{type}, second chunk");
        for (var t = 380; t < length; t++) findings.SameBits(expected.AsSpan(t * size, size), chunked.Step(kernels, runner, [(0, 1, SequenceFlags.Decode)]), $"{type}, token {t} decoded");
    }

    /// <summary>Sequences that have ended are zeros and leave the cache alone.</summary>
    public void Dead(Findings findings)
    {
        using var test = new AttentionCase(5, 4, 2, 16, KvElementType.BFloat16, 64, 64);
        var before = test.Pool.ToArray();
        var output = test.Step(kernels, runner, [(0, 5, SequenceFlags.Dead), (1, 1, SequenceFlags.Dead | SequenceFlags.Decode)]);
        findings.SameBits(new float[output.Length], output, "rows of sequences that have ended");
        findings.True(before.AsSpan().SequenceEqual(test.Pool), "Sequences that have ended wrote to the cache.");
    }

    private static float[][] LongRun(CpuKernels with, IParallelRunner runner)
    {
        using var test = new AttentionCase(77, 5, 1, 16, KvElementType.Float32, 2400);
        return [test.Step(with, runner, 0, 2145), test.Step(with, runner, 0, 1), test.Step(with, runner, 0, 9)];
    }

    /// <summary>Prefill of two sequences with a dead one between, then decode beside prefill, then decode of all.</summary>
    private float[][] Mixed(CpuKernels with, int seed, int heads, int kvHeads, int headDim, KvElementType type)
    {
        using var test = new AttentionCase(seed, heads, kvHeads, headDim, type, 300, 10, 140);
        return
        [
            test.Step(with, runner, [(0, 130, SequenceFlags.None), (1, 2, SequenceFlags.Dead), (2, 1, SequenceFlags.None)]),
            test.Step(with, runner, [(2, 127, SequenceFlags.None), (0, 1, SequenceFlags.Decode)]),
            test.Step(with, runner, [(0, 1, SequenceFlags.Decode), (1, 7, SequenceFlags.None), (2, 1, SequenceFlags.Decode)]),
        ];
    }

    /// <summary>Outputs and kept blocks of a prefill in two chunks, decode steps over the edge of a block, and a few tokens at that depth.</summary>
    private (float[] Output, string[] Blocks) SparseRun(CpuKernels with, int heads, int kvHeads, int headDim, KvElementType type, bool isGated)
    {
        using var test = new AttentionCase(3, heads, kvHeads, headDim, type, 1400)
        {
            Tokens = (sequence, position, qkv) => new SegmentRecipe(heads, kvHeads, headDim, (ulong)sequence + 1).Token(position, qkv),
            Gate = isGated ? [.. RandomTensor.Floats(new Random(4), kvHeads * 128 * headDim, 1).Select(static x => x / 16 + 1f / 128)] : null,
        };
        test.Limits[0] = s_tight;
        var output = new List<float>();
        var blocks = new List<string>();
        foreach (var (count, flags) in s_sparseSteps)
        {
            output.AddRange(test.Step(with, runner, [(0, count, flags)]));
            blocks.AddRange(test.Selections.Items.Select(static s => $"{s.FirstToken} + {s.TokenCount} {(s.IsDecode ? "decode" : "prefill")} {s.Head}: {string.Join(",", s.Blocks)}"));
        }
        return ([.. output], [.. blocks]);
    }
}
