using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>attention.cu</c>, emulated, against the reference kernels.</summary>
public sealed class CudaAttentionTests
{
    private static readonly TaskRunner s_runner = new(2);

    public static TheoryData<string> Types => [.. Enum.GetNames<KvElementType>()];

    [Theory]
    [MemberData(nameof(Types))]
    public void Attention_EqualsReference(string name) => FindingsAssert.None(findings => Checks().Dense(Enum.Parse<KvElementType>(name), KernelShapes.CudaAttention, findings));

    [Theory]
    [MemberData(nameof(Types))]
    public void SparsePrefillAndDecode_EqualReference(string name) => FindingsAssert.None(findings => Checks().Sparse(Enum.Parse<KvElementType>(name), KernelShapes.CudaSparse, findings));

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
        FindingsAssert.None(findings => new AttentionChecks(cuda, s_runner).Bits(type, findings));
        const int length = 400;
        AttentionCase New() => new(7, 5, 1, 32, type, 1000);
        using AttentionCase whole = New(), falling = New();
        var expected = whole.Step(cuda, s_runner, 0, length);
        CudaEmulation.Descending = true;
        try { TensorAssert.SameBits(expected, falling.Step(cuda, s_runner, 0, length), "in falling order"); }
        finally { CudaEmulation.Descending = false; }
    }

    [Fact]
    public void DeadSequences_AreZeroAndLeaveThePoolAlone() => FindingsAssert.None(static findings => Checks().Dead(findings));

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

    private static AttentionChecks Checks() => new(Cuda(), s_runner);

    private static EmulatedCudaKernels Cuda()
    {
        CudaEmulation.Of("attention");
        return new EmulatedCudaKernels();
    }
}
