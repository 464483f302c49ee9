using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels;

/// <summary>The reference kernels against numbers that were worked out without them.</summary>
public sealed unsafe class ReferenceKernelsTests
{
    private static readonly ReferenceKernels Kernels = new();

    [Fact]
    public void Linear_MultipliesByTheTransposedWeight() =>
        Assert.Equal([14, 0.5f, 32, -1], Linear([1, 2, 3, -1, 0, 0.5f], [1, 2, 3, 4, 5, 6], rows: 2, columns: 3, swiGlu: false));

    [Fact]
    public void Linear_SwiGluAppliesSiluToTheFirstHalf()
    {
        // gate 2 and -1, up 3 and 5: silu(2) = 1.7615942, silu(-1) = -0.26894143
        TensorAssert.Near([5.2847826f, -1.3447071f], Linear([2, -1, 3, 5], [1], rows: 4, columns: 1, swiGlu: true), 1e-6, 0, "SwiGLU");
    }

    [Fact]
    public void Attention_RotatesInterleavedPairs()
    {
        // d 8, theta 5e5, p 1000, x = 1..8, from the model's description. The half-split order gives other numbers.
        float[] expected = [-1.09138000f, 1.95163769f, 3.35879954f, 3.70384471f, -5.14687720f, 5.87449190f, 6.56483970f, 8.36079420f];
        var layout = new KvBlockLayout(KvElementType.Float32, 1, 8);
        using var pool = new NativeArray<byte>(layout.BlockBytes);
        using var qkv = NativeArray<float>.From([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        pool.Span.Clear();
        Attention(layout, pool, qkv, position: 1000);

        var key = new float[8];
        for (var c = 0; c < 8; c++) key[c] = *(float*)(pool.Pointer + layout.Key(0, 1000 % KvBlockLayout.BlockSize, c));
        TensorAssert.Near(expected, key, 2e-6, 0, "rotated key");
    }

    [Fact]
    public void Attention_WeighsValuesByTheSoftmaxOfScaledScores()
    {
        // headDim 2, two tokens at positions 0 and 1; the frequency is 1, so position 1 turns by one radian.
        // q1 = (1, 0) and k1 = (1, 0) turn alike: score 1 / sqrt 2. k0 = (1, 0) stays: score cos 1 / sqrt 2.
        var layout = new KvBlockLayout(KvElementType.Float32, 1, 2);
        using var pool = new NativeArray<byte>(layout.BlockBytes);
        pool.Span.Fill(0xFF);
        using var qkv = NativeArray<float>.From([1, 0, 1, 0, 10, 20, 1, 0, 1, 0, 30, 60]);
        var output = Attention(layout, pool, qkv, position: 0);
        var weight = 1 / (1 + Math.Exp((Math.Cos(1) - 1) / Math.Sqrt(2)));
        TensorAssert.Near([10, 20, (float)(10 + 20 * weight), (float)(20 + 40 * weight)], output, 1e-5, 0, "output");
    }

    [Fact]
    public void Experts_BiasChangesSelectionNotWeights()
    {
        // Logits ln 1, ln 2, ln 3, ln 4: probabilities 0.1, 0.2, 0.3, 0.4. The bias lifts expert 0 over expert 2.
        // Expert e: gate 1, up e + 1, down 1: silu(1) · (e + 1) with silu(1) = 0.7310586.
        float[] router = [0, MathF.Log(2), MathF.Log(3), MathF.Log(4)];
        float[] gateUp = [1, 1, 1, 2, 1, 3, 1, 4];
        var result = Experts(router, [0.25f, 0, 0, 0], gateUp, [1, 1, 1, 1]);
        Assert.Equal([3, 0], result.Selected);
        TensorAssert.Near([0.8f, 0.2f], result.Weights, 1e-6, 0, "weights");
        TensorAssert.Near([0.7310586f * (0.8f * 4 + 0.2f * 1)], result.Output, 1e-6, 0, "output");
    }

    [Fact]
    public void Experts_TiesGoToTheLowerIndex() => Assert.Equal([1, 2], Experts([0, 1, 1, 1], [0, 0, 0, 0], new float[8], new float[4]).Selected);

    private static float[] Linear(float[] weight, float[] input, int rows, int columns, bool swiGlu)
    {
        using var w = NativeArray<float>.From(weight);
        using var x = NativeArray<float>.From(input);
        using var scratch = new ScratchBuffer();
        var arguments = new LinearArguments
        {
            Input = x.Pointer,
            TokenCount = input.Length / columns,
            Weight = new PackedMatrix(WeightFormat.Float32, (byte*)w.Pointer, rows, columns),
            SwiGlu = swiGlu,
        };
        using var y = new NativeArray<float>(arguments.TokenCount * arguments.OutputSize);
        arguments.Output = y.Pointer;
        Kernels.Linear(arguments, new KernelContext(SerialRunner.Instance, scratch));
        return y.Span.ToArray();
    }

    /// <summary>One head; tokens at consecutive positions; every block of the table is block 0.</summary>
    private static float[] Attention(KvBlockLayout layout, NativeArray<byte> pool, NativeArray<float> qkv, int position)
    {
        var tokens = (int)qkv.Length / (3 * layout.HeadDim);
        using var positions = NativeArray<int>.From([.. Enumerable.Range(position, tokens)]);
        using var starts = NativeArray<int>.From([0, tokens]);
        using var flags = NativeArray<int>.From([0]);
        using var table = NativeArray<int>.From(new int[16]);
        using var output = new NativeArray<float>(tokens * layout.HeadDim);
        using var scratch = new ScratchBuffer();
        Kernels.Attention(new AttentionArguments
        {
            Qkv = qkv.Pointer,
            TokenCount = tokens,
            Positions = positions.Pointer,
            SequenceStarts = starts.Pointer,
            SequenceCount = 1,
            Flags = flags.Pointer,
            BlockTables = table.Pointer,
            BlockTableStride = 16,
            Pool = pool.Pointer,
            PoolBlockCount = 1,
            Layout = layout,
            Rope = new RopeTable(layout.HeadDim, 500_000, 1, 2048),
            HeadCount = 1,
            KvHeadCount = 1,
            HeadDim = layout.HeadDim,
            KvHeadEnd = 1,
            Output = output.Pointer,
        }, new KernelContext(SerialRunner.Instance, scratch));
        return output.Span.ToArray();
    }

    /// <summary>One token x = (1), hidden size 1, intermediate size 1, two experts a token.</summary>
    private static ExpertsResult Experts(float[] router, float[] bias, float[] gateUp, float[] down)
    {
        using var x = NativeArray<float>.From([1]);
        using var r = NativeArray<float>.From(router);
        using var b = NativeArray<float>.From(bias);
        using var gu = NativeArray<float>.From(gateUp);
        using var d = NativeArray<float>.From(down);
        using var output = new NativeArray<float>(1);
        using var selected = new NativeArray<int>(2);
        using var weights = new NativeArray<float>(2);
        using var scratch = new ScratchBuffer();
        Kernels.Experts(new ExpertsArguments
        {
            Input = x.Pointer,
            TokenCount = 1,
            HiddenSize = 1,
            ExpertCount = router.Length,
            ExpertsPerToken = 2,
            IntermediateSize = 1,
            NormMin = 1e-12f,
            Router = r.Pointer,
            CorrectionBias = b.Pointer,
            ExpertEnd = router.Length,
            GateUp = new PackedMatrix(WeightFormat.Float32, (byte*)gu.Pointer, gateUp.Length, 1),
            Down = new PackedMatrix(WeightFormat.Float32, (byte*)d.Pointer, down.Length, 1),
            Output = output.Pointer,
            Selected = selected.Pointer,
            Weights = weights.Pointer,
        }, new KernelContext(SerialRunner.Instance, scratch));
        return new ExpertsResult(output.Span.ToArray(), selected.Span.ToArray(), weights.Span.ToArray());
    }
}
