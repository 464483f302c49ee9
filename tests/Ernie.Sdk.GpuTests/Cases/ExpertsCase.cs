using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>One layer of experts with seeded weights.</summary>
internal sealed unsafe class ExpertsCase : IDisposable
{
    public const float NormMin = 1e-12f;
    private readonly WeightFormat _format;
    private readonly NativeArray<byte> _gateUp, _down;

    public ExpertsCase(int seed, int tokens, int hidden, int intermediate, int experts, int perToken, WeightFormat format)
    {
        var random = new Random(seed);
        (Tokens, Hidden, Intermediate, Experts, PerToken, _format) = (tokens, hidden, intermediate, experts, perToken, format);
        Input = NativeArray<float>.From(RandomTensor.Floats(random, tokens * hidden, 2));
        Router = NativeArray<float>.From(RandomTensor.Floats(random, experts * hidden, 8 / Math.Sqrt(hidden)));
        Bias = NativeArray<float>.From(RandomTensor.Floats(random, experts, 0.5));
        _gateUp = RandomTensor.Weight(random, 2 * experts, intermediate, hidden, format, 4 / Math.Sqrt(hidden));
        _down = RandomTensor.Weight(random, experts, hidden, intermediate, format, 4 / Math.Sqrt(intermediate));
    }

    public int Tokens { get; }
    public int Hidden { get; }
    public int Intermediate { get; }
    public int Experts { get; }
    public int PerToken { get; }
    /// <summary>[tokens, hidden]</summary>
    public NativeArray<float> Input { get; }
    /// <summary>[experts, hidden]</summary>
    public NativeArray<float> Router { get; }
    /// <summary>[experts]</summary>
    public NativeArray<float> Bias { get; }

    public ExpertsResult Run(CpuKernels kernels, IParallelRunner runner) => Run(kernels, runner, 0, Tokens, 0, Experts);

    /// <summary>Tokens [begin, end) through experts [expertBegin, expertEnd).</summary>
    /// <param name="kernels">What computes.</param>
    /// <param name="runner">Threads.</param>
    /// <param name="begin">First token.</param>
    /// <param name="end">Behind the last token.</param>
    /// <param name="expertBegin">First expert.</param>
    /// <param name="expertEnd">Behind the last expert.</param>
    /// <param name="optionalOutputs">Whether choices and their weights are wanted.</param>
    /// <param name="routing">What a router has chosen for these tokens; null: the kernels route.</param>
    public ExpertsResult Run(CpuKernels kernels, IParallelRunner runner, int begin, int end, int expertBegin, int expertEnd, bool optionalOutputs = true, ExpertsResult? routing = null)
    {
        var count = end - begin;
        using var scratch = new ScratchBuffer();
        using var output = new NativeArray<float>(count * Hidden);
        using var selected = new NativeArray<int>(count * PerToken);
        using var weights = new NativeArray<float>(count * PerToken);
        output.Span.Fill(float.NaN);
        routing?.Selected.CopyTo(selected.Span);
        routing?.Weights.CopyTo(weights.Span);
        var gateUp = new PackedMatrix(_format, _gateUp.Pointer, (nint)Experts * 2 * Intermediate, Hidden, Intermediate);
        var down = new PackedMatrix(_format, _down.Pointer, (nint)Experts * Hidden, Intermediate, Hidden);
        var arguments = new ExpertsArguments
        {
            Input = Input.Pointer + (nint)begin * Hidden,
            TokenCount = count,
            HiddenSize = Hidden,
            ExpertCount = Experts,
            ExpertsPerToken = PerToken,
            IntermediateSize = Intermediate,
            NormMin = NormMin,
            Router = routing is null ? Router.Pointer : null,
            CorrectionBias = Bias.Pointer,
            ExpertBegin = expertBegin,
            ExpertEnd = expertEnd,
            GateUp = gateUp.Slice((nint)expertBegin * 2 * Intermediate, (nint)(expertEnd - expertBegin) * 2 * Intermediate),
            Down = down.Slice((nint)expertBegin * Hidden, (nint)(expertEnd - expertBegin) * Hidden),
            Output = output.Pointer,
            Selected = optionalOutputs ? selected.Pointer : null,
            Weights = optionalOutputs ? weights.Pointer : null,
        };
        kernels.Experts(arguments, new KernelContext(runner, scratch));
        return new ExpertsResult(output.Span.ToArray(), selected.Span.ToArray(), weights.Span.ToArray());
    }

    /// <summary>All tokens through some experts, which lie in the stacks in this order and are found by <see cref="ExpertsArguments.Slots"/>.</summary>
    public float[] Run(CpuKernels kernels, IParallelRunner runner, ReadOnlySpan<int> resident, ExpertsResult routing)
    {
        using var scratch = new ScratchBuffer();
        using var output = new NativeArray<float>(Tokens * Hidden);
        using var selected = NativeArray<int>.From(routing.Selected);
        using var weights = NativeArray<float>.From(routing.Weights);
        using var slots = new NativeArray<int>(Experts);
        nint gateUpBytes = _gateUp.Length / Experts, downBytes = _down.Length / Experts;
        using var gateUp = new NativeArray<byte>(resident.Length * gateUpBytes);
        using var down = new NativeArray<byte>(resident.Length * downBytes);
        output.Span.Fill(float.NaN);
        slots.Span.Fill(-1);
        for (var slot = 0; slot < resident.Length; slot++)
        {
            slots.Span[resident[slot]] = slot;
            _gateUp.Span.Slice((int)(resident[slot] * gateUpBytes), (int)gateUpBytes).CopyTo(gateUp.Span[(int)(slot * gateUpBytes)..]);
            _down.Span.Slice((int)(resident[slot] * downBytes), (int)downBytes).CopyTo(down.Span[(int)(slot * downBytes)..]);
        }
        var arguments = new ExpertsArguments
        {
            Input = Input.Pointer,
            TokenCount = Tokens,
            HiddenSize = Hidden,
            ExpertCount = Experts,
            ExpertsPerToken = PerToken,
            IntermediateSize = Intermediate,
            NormMin = NormMin,
            ExpertEnd = resident.Length,
            Slots = slots.Pointer,
            GateUp = new PackedMatrix(_format, gateUp.Pointer, (nint)resident.Length * 2 * Intermediate, Hidden, Intermediate),
            Down = new PackedMatrix(_format, down.Pointer, (nint)resident.Length * Hidden, Intermediate, Hidden),
            Output = output.Pointer,
            Selected = selected.Pointer,
            Weights = weights.Pointer,
        };
        kernels.Experts(arguments, new KernelContext(runner, scratch));
        return output.Span.ToArray();
    }

    public void Dispose()
    {
        Input.Dispose();
        Router.Dispose();
        Bias.Dispose();
        _gateUp.Dispose();
        _down.Dispose();
    }
}

internal sealed record ExpertsResult(float[] Output, int[] Selected, float[] Weights);
