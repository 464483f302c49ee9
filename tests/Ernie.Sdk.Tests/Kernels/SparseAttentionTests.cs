using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>Sparse attention: every family against the reference, and equal bits whatever else runs.</summary>
public sealed class SparseAttentionTests
{
    private const int Heads = 10, KvHeads = 2, HeadDim = 32, Length = 2300;
    private static readonly SparseLimits Tight = new(3, 4, 384, 3, 5, 384);
    private static readonly TaskRunner Runner = new(2);

    public static TheoryData<string> Families => KernelConformanceTests.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Prefill_Decode_AndAShortPrefillAtDepth_EqualReference(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var (elementType, tolerance) in new[] { (KvElementType.Float32, 2e-5), (KvElementType.BFloat16, 5e-3), (KvElementType.Int8, 5e-2) })
        {
            // Heads of 18 channels end inside a lane; one KV head with a single query head has no group.
            foreach (var (heads, kvHeads, headDim, gated) in new[] { (Heads, KvHeads, HeadDim, false), (8, 1, 18, true), (3, 3, 20, false), (4, 1, 64, true) })
            {
                var (expected, expectedBlocks) = Run(new ReferenceKernels(), Runner, heads, kvHeads, headDim, elementType, gated);
                var (actual, blocks) = Run(kernels, Runner, heads, kvHeads, headDim, elementType, gated);
                var what = $"{family} {elementType} {heads}/{kvHeads} heads of {headDim}";
                // Rotated keys may round to their other neighbour, and a score near its threshold then falls on the other side.
                if (elementType == KvElementType.Float32) Assert.Equal(expectedBlocks, blocks);
                var same = expectedBlocks.Zip(blocks).Count(static pair => pair.First == pair.Second);
                Assert.True(same > 0.95 * blocks.Length, $"{what}: {same} of {blocks.Length} lists are equal.");
                if (same == blocks.Length) TensorAssert.Near(expected, actual, tolerance, tolerance, what);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void WhereEveryBlockIsKept_EqualsDenseBitForBit(string family)
    {
        // Equal scores keep every block: under a gate of zeros all summaries are zero, and keys that repeat from block to block have one mean.
        var kernels = KernelFamilies.Supported(family);
        const int blocks = 18;
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            AttentionCase Repeating() => new(3, Heads, KvHeads, HeadDim, elementType, blocks * 128)
            {
                Tokens = (_, position, qkv) =>
                {
                    var recipe = new SegmentRecipe(Heads, KvHeads, HeadDim, 1);
                    recipe.Token(position, qkv);
                    for (var h = 0; h < KvHeads; h++) recipe.Key(h, position % 128, qkv.Slice((Heads + h) * HeadDim, HeadDim));
                },
                Rope = new RopeTable(HeadDim, 500_000, double.PositiveInfinity, blocks * 128),
                Gate = new float[KvHeads * 128 * HeadDim],
            };
            using AttentionCase dense = Repeating(), sparse = Repeating();
            sparse.Limits[0] = Tight;
            TensorAssert.SameBits(dense.Step(kernels, Runner, 0, blocks * 128 - 1), sparse.Step(kernels, Runner, 0, blocks * 128 - 1), "prefill");
            Assert.Equal(Heads * (blocks - 2), sparse.Selections.Items.Count);
            Assert.All(sparse.Selections.Items, static selection => Assert.Equal(Enumerable.Range(0, selection.FirstToken / 128 + 1), selection.Blocks));
            TensorAssert.SameBits(dense.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]), sparse.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]), "decode");
            Assert.All(sparse.Selections.Items, static selection => Assert.Equal(Enumerable.Range(0, blocks), selection.Blocks));
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void ChunksOfWholeBlocks_EqualOneChunk(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            foreach (var gated in new[] { false, true })
            {
                float[] InChunks(int chunk)
                {
                    using var test = New(elementType, gated, Length + 1);
                    test.Limits[0] = Tight;
                    var output = new List<float>();
                    for (var done = 0; done < Length; done += chunk) output.AddRange(test.Step(kernels, Runner, 0, Math.Min(chunk, Length - done)));
                    return [.. output, .. test.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)])];
                }
                var whole = InChunks(Length);
                foreach (var chunk in new[] { 128, 384, 1024 }) TensorAssert.SameBits(whole, InChunks(chunk), $"{elementType} in chunks of {chunk}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void BesideOtherSequences_EqualsAlone(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        var size = Heads * HeadDim;
        using AttentionCase together = New(KvElementType.BFloat16, false, 1500, 40, 900), alone = New(KvElementType.BFloat16, false, 1500, 40, 900);
        foreach (var test in new[] { together, alone }) (test.Limits[0], test.Limits[1], test.Limits[2]) = (Tight, Tight, new SparseLimits(2, 2, 256, 2, 3, 256));
        var first = together.Step(kernels, Runner, [(1, 3, SequenceFlags.None), (0, 1280, SequenceFlags.None), (2, 768, SequenceFlags.None)]);
        var second = together.Step(kernels, Runner, [(2, 1, SequenceFlags.Decode), (1, 1, SequenceFlags.Decode), (0, 150, SequenceFlags.None)]);
        var third = together.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode), (2, 1, SequenceFlags.Decode)]);
        TensorAssert.SameBits(first.AsSpan(3 * size, 1280 * size), alone.Step(kernels, Runner, 0, 1280), "sequence 0");
        TensorAssert.SameBits(first.AsSpan(1283 * size), alone.Step(kernels, Runner, 2, 768), "sequence 2");
        TensorAssert.SameBits(second.AsSpan(0, size), alone.Step(kernels, Runner, [(2, 1, SequenceFlags.Decode)]), "sequence 2, decode");
        TensorAssert.SameBits(second.AsSpan(2 * size), alone.Step(kernels, Runner, 0, 150), "sequence 0 at depth");
        TensorAssert.SameBits(third.AsSpan(0, size), alone.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]), "sequence 0, decode");
        TensorAssert.SameBits(third.AsSpan(size), alone.Step(kernels, Runner, [(2, 1, SequenceFlags.Decode)]), "sequence 2, decode again");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Threads_DoNotChangeBits(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            var (expected, blocks) = Run(kernels, SerialRunner.Instance, Heads, KvHeads, HeadDim, elementType, gated: true);
            foreach (var threads in new[] { 2, 7 })
            {
                var (actual, actualBlocks) = Run(kernels, new TaskRunner(threads), Heads, KvHeads, HeadDim, elementType, gated: true);
                Assert.Equal(blocks, actualBlocks);
                TensorAssert.SameBits(expected, actual, $"{elementType}, {threads} threads");
            }
        }
    }

    [Fact]
    public void InstructionSets_DoNotChangeBits()
    {
        var vector = KernelRegistry.All.Where(static kernels => kernels.IsSupported && kernels is not ReferenceKernels).ToArray();
        Assert.SkipWhen(vector.Length < 2, "This machine runs one family of vector kernels only.");
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            foreach (var (heads, kvHeads, headDim) in new[] { (Heads, KvHeads, HeadDim), (8, 1, 18), (5, 1, 128) })
            {
                var (expected, blocks) = Run(vector[0], Runner, heads, kvHeads, headDim, elementType, gated: true);
                foreach (var kernels in vector[1..])
                {
                    var (actual, actualBlocks) = Run(kernels, Runner, heads, kvHeads, headDim, elementType, gated: true);
                    Assert.Equal(blocks, actualBlocks);
                    TensorAssert.SameBits(expected, actual, $"{kernels.Name} against {vector[0].Name}, {elementType}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void AStepThatEndedEarly_RunsAgainWithEqualBits(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        foreach (var elementType in Enum.GetValues<KvElementType>())
        {
            using AttentionCase once = New(elementType, gated: true), again = New(elementType, gated: true);
            (once.Limits[0], again.Limits[0]) = (Tight, Tight);
            // Steps that begin inside a block, as decode and short chunks do; some appended more than the step that replaces them.
            foreach (var (count, abandoned) in new[] { (1300, 1300), (100, 128), (1, 1), (1, 40), (130, 1), (1, 1) })
            {
                var flags = count == 1 ? SequenceFlags.Decode : SequenceFlags.None;
                var before = again.Rewind(0, null);
                again.Step(kernels, Runner, [(0, abandoned, abandoned == 1 ? SequenceFlags.Decode : SequenceFlags.None)]);
                again.Rewind(0, before);
                TensorAssert.SameBits(once.Step(kernels, Runner, [(0, count, flags)]), again.Step(kernels, Runner, [(0, count, flags)]), $"{elementType}, {count} tokens after {abandoned}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void ASequenceThatDiesDuringTheStep_IsZeroAndDisturbsNobody(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        var size = Heads * HeadDim;
        float[] expected;
        int items;
        (int, int, SequenceFlags)[] prefill = [(0, 700, SequenceFlags.None), (1, 600, SequenceFlags.None)], decode = [(0, 1, SequenceFlags.Decode), (1, 1, SequenceFlags.Decode)];
        using (var test = NewPair())
        {
            var counting = new DyingRunner(int.MaxValue);
            expected = [.. test.Step(kernels, counting, prefill), .. test.Step(kernels, counting, decode)];
            items = counting.Items;
        }
        foreach (var moment in Enumerable.Range(0, 12).Select(i => items * i / 12))
        {
            using var test = NewPair();
            var runner = new DyingRunner(moment);
            test.Flagged = runner.Watch;
            var first = test.Step(kernels, runner, prefill);
            TensorAssert.SameBits(expected.AsSpan(0, 700 * size), first.AsSpan(0, 700 * size), $"prefill, at item {moment}");
            if (runner.HasKilled) Assert.All(first[(700 * size)..], static value => Assert.Equal(0f, value));
            var second = test.Step(kernels, runner, decode);
            TensorAssert.SameBits(expected.AsSpan(1300 * size, size), second.AsSpan(0, size), $"decode, at item {moment}");
            Assert.True(runner.HasKilled);
            Assert.All(second[size..], static value => Assert.Equal(0f, value));
        }

        static AttentionCase NewPair()
        {
            var test = New(KvElementType.BFloat16, false, 900, 900);
            (test.Limits[0], test.Limits[1]) = (Tight, Tight);
            return test;
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void LimitsBelow_DensePrefill_AndNoLimits_ReadEveryBlock(string family)
    {
        var kernels = KernelFamilies.Supported(family);
        using AttentionCase plain = New(KvElementType.Float32), dense = New(KvElementType.Float32, densePrefill: true);
        dense.Limits[0] = Tight;
        TensorAssert.SameBits(plain.Step(kernels, Runner, 0, 1400), dense.Step(kernels, Runner, 0, 1400), "prefill of a layer that is not selected");
        Assert.Empty(dense.Selections.Items);
        // Decode is selected in every layer.
        dense.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]);
        Assert.Equal(KvHeads, dense.Selections.Items.Count);
        Assert.All(dense.Selections.Items, static selection => Assert.InRange(selection.Blocks.Length, 3, 10));
        plain.Limits[0] = Tight with { DecoderLimit = 1401 };
        plain.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]);
        Assert.Empty(plain.Selections.Items);
        plain.Step(kernels, Runner, [(0, 1, SequenceFlags.Decode)]);
        Assert.Equal(KvHeads, plain.Selections.Items.Count);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void ADecodeOfTwoTokens_Throws(string family)
    {
        using var test = New(KvElementType.Float32);
        Assert.Contains("decodes 2 tokens", Assert.Throws<InvalidOperationException>(() => test.Step(KernelFamilies.Supported(family), Runner, [(0, 2, SequenceFlags.Decode)])).Message, StringComparison.Ordinal);
    }

    /// <summary>Outputs and kept blocks of a prefill in two chunks, three decode steps over the edge of a block, and a few tokens at that depth.</summary>
    private static (float[] Output, string[] Blocks) Run(CpuKernels kernels, IParallelRunner runner, int heads, int kvHeads, int headDim, KvElementType elementType, bool gated)
    {
        using var test = New(heads, kvHeads, headDim, elementType, gated, false, Length);
        test.Limits[0] = Tight;
        var output = new List<float>();
        var blocks = new List<string>();
        foreach (var (count, flags) in new[] { (1024, SequenceFlags.None), (510, SequenceFlags.None), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (1, SequenceFlags.Decode), (9, SequenceFlags.None) })
        {
            output.AddRange(test.Step(kernels, runner, [(0, count, flags)]));
            blocks.AddRange(test.Selections.Items.Select(static s => $"{s.FirstToken} + {s.TokenCount} {(s.IsDecode ? "decode" : "prefill")} {s.Head}: {string.Join(",", s.Blocks)}"));
        }
        return ([.. output], [.. blocks]);
    }

    private static AttentionCase New(KvElementType elementType, bool gated = false, params int[] capacities) =>
        New(Heads, KvHeads, HeadDim, elementType, gated, false, capacities.Length == 0 ? [Length + 200] : capacities);

    private static AttentionCase New(KvElementType elementType, bool densePrefill) => New(Heads, KvHeads, HeadDim, elementType, false, densePrefill, Length);

    private static AttentionCase New(int heads, int kvHeads, int headDim, KvElementType elementType, bool gated, bool densePrefill, params int[] capacities) => new(3, heads, kvHeads, headDim, elementType, capacities)
    {
        Tokens = (sequence, position, qkv) => new SegmentRecipe(heads, kvHeads, headDim, (ulong)sequence + 1).Token(position, qkv),
        Gate = gated ? [.. RandomTensor.Floats(new Random(4), kvHeads * 128 * headDim, 1).Select(static x => x / 16 + 1f / 128)] : null,
        DensePrefill = densePrefill,
    };

    /// <summary>Flags the second sequence dead before a certain work item.</summary>
    private sealed class DyingRunner(int moment) : IParallelRunner
    {
        private nint _flag;
        private int _items;

        public int ThreadCount => 2;
        public int Items => _items;
        public bool HasKilled { get; private set; }

        public unsafe void Watch(nint flags)
        {
            _flag = flags + sizeof(int);
            if (HasKilled) *(int*)_flag |= (int)SequenceFlags.Dead;
        }

        public unsafe void For(int count, Action<int> body) => Runner.For(count, i =>
        {
            if (Interlocked.Increment(ref _items) > moment && !HasKilled)
            {
                HasKilled = true;
                Interlocked.Or(ref *(int*)_flag, (int)SequenceFlags.Dead);
            }
            body(i);
        });
    }
}
