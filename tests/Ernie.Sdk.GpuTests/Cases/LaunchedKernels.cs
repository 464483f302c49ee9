using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>The operators as <see cref="CudaLaunches"/> computes them, for arguments in the CPU's memory, beside what else of <c>Kernels/Cuda</c> is launched.</summary>
internal abstract unsafe class LaunchedKernels : CpuKernels
{
    public override string Name => "cuda";

    /// <inheritdoc cref="CudaLaunches.Tiling"/>
    public CudaTiling? Tiling { get; init; }

    /// <summary>What one call of an operator may use. Disposing it gives back memory; results are there after <see cref="Finish"/>.</summary>
    protected abstract class Call : IDisposable
    {
        public abstract ICudaLauncher Launcher { get; }

        /// <summary>Device memory with these elements; null for null.</summary>
        public abstract T* In<T>(T* host, nint count) where T : unmanaged;

        /// <summary>Device memory whose elements are at <paramref name="host"/> after <see cref="Finish"/>; null for null.</summary>
        public abstract T* Out<T>(T* host, nint count) where T : unmanaged;

        /// <summary>Device memory that is read and written.</summary>
        public abstract T* InOut<T>(T* host, nint count) where T : unmanaged;

        /// <summary>Waits for what was launched, and reads results.</summary>
        public abstract void Finish();

        /// <summary>Elements in device memory, after <see cref="Finish"/>.</summary>
        public abstract T[] Read<T>(T* device, nint count) where T : unmanaged;

        public abstract void Dispose();
    }

    protected abstract Call Begin();

    public override void Linear(in LinearArguments arguments, in KernelContext context)
    {
        using var call = Begin();
        var a = arguments;
        a.Input = call.In(a.Input, a.TokenCount * a.Weight.Columns);
        a.Weight = Sent(call, a.Weight);
        a.Output = call.Out(a.Output, a.TokenCount * a.OutputSize);
        new CudaLaunches(call.Launcher) { Tiling = Tiling }.Linear(a);
        call.Finish();
    }

    public override void Experts(in ExpertsArguments arguments, in KernelContext context)
    {
        using var call = Begin();
        var a = arguments;
        a.Input = call.In(a.Input, (nint)a.TokenCount * a.HiddenSize);
        a.Router = call.In(a.Router, (nint)a.ExpertCount * a.HiddenSize);
        a.CorrectionBias = call.In(a.CorrectionBias, a.ExpertCount);
        a.Slots = call.In(a.Slots, a.ExpertCount);
        a.GateUp = Sent(call, a.GateUp);
        a.Down = Sent(call, a.Down);
        a.Output = call.Out(a.Output, (nint)a.TokenCount * a.HiddenSize);
        var choices = (nint)a.TokenCount * a.ExpertsPerToken;
        a.Selected = arguments.Router == null ? call.In(a.Selected, choices) : call.Out(a.Selected, choices);
        a.Weights = arguments.Router == null ? call.In(a.Weights, choices) : call.Out(a.Weights, choices);
        new CudaLaunches(call.Launcher) { Tiling = Tiling }.Experts(a);
        call.Finish();
    }

    /// <summary><c>add_partial</c> of [tokens, hidden].</summary>
    public void AddPartial(float* part, float* output, int tokens, int hidden)
    {
        using var call = Begin();
        var size = (nint)tokens * hidden;
        new CudaLaunches(call.Launcher).AddPartial(call.In(part, size), new ExpertsArguments { TokenCount = tokens, HiddenSize = hidden, Output = call.InOut(output, size) });
        call.Finish();
    }

    public override void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        AttentionSteps.Prepare(arguments);
        using var call = Begin();
        var a = arguments;
        var positions = a.TokenCount == 0 ? 0 : new ReadOnlySpan<int>(a.Positions, a.TokenCount).ToArray().Max() + 1;
        a.Rope.Ensure(Math.Max(0, positions - 1));
        using var angles = new NativeArray<float>((nint)positions * a.HeadDim);
        for (var p = 0; p < positions; p++) a.Rope.Row(p).CopyTo(angles.Span[(p * a.HeadDim)..]);
        a.Qkv = call.In(a.Qkv, (nint)a.TokenCount * (a.HeadCount + 2 * a.KvHeadCount) * a.HeadDim);
        a.Positions = call.In(a.Positions, a.TokenCount);
        a.SequenceStarts = call.In(a.SequenceStarts, a.SequenceCount + 1);
        a.Flags = call.In(a.Flags, a.SequenceCount);
        a.BlockTables = call.In(a.BlockTables, (nint)a.SequenceCount * a.BlockTableStride);
        a.Limits = call.In(a.Limits, a.SequenceCount);
        a.Gate = call.In(a.Gate, (nint)a.KvHeadCount * KvBlockLayout.BlockSize * a.HeadDim);
        a.Pool = call.InOut(a.Pool, a.PoolBlockCount * a.Layout.BlockBytes);
        a.Output = call.Out(a.Output, (nint)a.TokenCount * (a.KvHeadEnd - a.KvHeadBegin) * (a.HeadCount / a.KvHeadCount) * a.HeadDim);
        var selection = new CudaLaunches(call.Launcher, new CudaStep(Kind(arguments))).Attention(a, call.In(angles.Pointer, angles.Length));
        call.Finish();
        if (a.Selections is not null) Note(arguments, selection, call);
    }

    /// <summary>One launch of <c>sampling.cu</c>; lists have <paramref name="lengths"/> elements.</summary>
    public void Sample(in SampleArguments arguments, SampleLengths lengths)
    {
        using var call = Begin();
        var a = arguments;
        a.Logits = call.In(a.Logits, (nint)lengths.LogitsRows * a.VocabSize);
        a.Undefined = call.In(a.Undefined, 2 * a.UndefinedCount);
        a.Rows = call.In(a.Rows, a.RowCount);
        a.HistoryIds = call.In(a.HistoryIds, lengths.History);
        a.HistoryCounts = call.In(a.HistoryCounts, lengths.History);
        a.BiasIds = call.In(a.BiasIds, lengths.Biases);
        a.BiasValues = call.In(a.BiasValues, lengths.Biases);
        a.Allowed = call.In(a.Allowed, (nint)lengths.Masks * a.AllowedWords);
        a.Tokens = call.InOut(a.Tokens, a.RowCount);
        a.LogProbabilities = call.Out(a.LogProbabilities, a.RowCount);
        a.TopIds = call.Out(a.TopIds, (nint)a.RowCount * a.MaxTop);
        a.TopLogProbabilities = call.Out(a.TopLogProbabilities, (nint)a.RowCount * a.MaxTop);
        new CudaLaunches(call.Launcher).Sample(a);
        call.Finish();
    }

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => AddRmsNorm(arguments, null, null);

    /// <summary>With codes [tokens, columns'] and scales [tokens, columns' / 32] of 8 bytes, or null: the output as packed products read it.</summary>
    public void AddRmsNorm(in AddRmsNormArguments arguments, byte* codes, ulong* scales)
    {
        using var call = Begin();
        var a = arguments;
        nint size = (nint)a.TokenCount * a.Columns, blocks = (nint)a.TokenCount * ((a.Columns + 31) / 32);
        call.Launcher.Launch("norm", "add_rms_norm", (a.TokenCount, 1, 1), 256, 32, call.In(a.Input, size), call.In(a.First, size), call.In(a.Second, size), call.In(a.Weight, a.Columns), call.Out(a.Sum, size), call.Out(a.Output, size),
            call.Out(codes, blocks * 32), call.Out(scales, blocks), a.Columns, a.Epsilon);
        call.Finish();
    }

    /// <summary><c>quantise_rows</c> of [rows, columns].</summary>
    public void QuantiseRows(float* x, int rows, int columns, byte* codes, ulong* scales)
    {
        using var call = Begin();
        var blocks = (columns + 31) / 32;
        call.Launcher.Launch("linear", "quantise_rows", (rows, (blocks + 7) / 8, 1), 256, 0, call.In(x, (nint)rows * columns), columns, call.Out(codes, (nint)rows * blocks * 32), call.Out(scales, (nint)rows * blocks));
        call.Finish();
    }

    private static PackedMatrix Sent(Call call, in PackedMatrix weight)
    {
        var bytes = weight.Format.Bytes(weight.Rows / weight.SectionRows, weight.SectionRows, weight.Columns);
        return new PackedMatrix(weight.Format, call.In(weight.Data, (nint)bytes), weight.Rows, weight.Columns, weight.SectionRows);
    }

    /// <summary>As the engine knows it.</summary>
    private static CudaStepKind Kind(in AttentionArguments a)
    {
        var decodes = 0;
        for (var s = 0; s < a.SequenceCount; s++) decodes += a.Flags[s] & (int)SequenceFlags.Decode;
        return decodes == 0 ? CudaStepKind.Prefill : decodes == a.SequenceCount && decodes == a.TokenCount ? CudaStepKind.Decode : CudaStepKind.Mixed;
    }

    /// <summary>What the kernels kept, as the CPU's kernels note it.</summary>
    private static void Note(in AttentionArguments a, in CudaSelection selection, Call call)
    {
        var group = a.HeadCount / a.KvHeadCount;
        var (heads, kvHeads, words) = ((a.KvHeadEnd - a.KvHeadBegin) * group, a.KvHeadEnd - a.KvHeadBegin, selection.Words);
        var all = call.Read((Pack*)selection.Packs, selection.PrefillCount + selection.DecodeCount);
        uint[] prefillKept = selection.PrefillKept == null ? [] : call.Read(selection.PrefillKept, (nint)selection.PrefillCount * heads * words);
        uint[] decodeKept = selection.DecodeKept == null ? [] : call.Read(selection.DecodeKept, (nint)selection.DecodeCount * kvHeads * words);
        var packs = new List<(Pack Pack, bool IsDecode, int Index)>();
        for (var i = 0; i < all.Length; i++)
        {
            if (all[i].Count > 0) packs.Add((all[i], i >= selection.PrefillCount, i < selection.PrefillCount ? i : i - selection.PrefillCount));
        }
        foreach (var (pack, isDecode, index) in packs.OrderBy(static item => item.Pack.First))
        {
            if (AttentionSteps.IsDecode(a, pack.Sequence) != isDecode) throw new InvalidOperationException($"Sequence {pack.Sequence} is taken for a {(isDecode ? "decode" : "prefill")}.");
            if (!AttentionSteps.IsSparse(a, pack.Sequence, pack.Block)) continue;
            var first = isDecode ? a.KvHeadBegin : a.KvHeadBegin * group;
            var lists = isDecode ? kvHeads : heads;
            for (var h = 0; h < lists; h++)
            {
                var kept = (isDecode ? decodeKept : prefillKept).AsSpan((index * lists + h) * words, words).ToArray();
                int[] blocks = [.. Enumerable.Range(0, 32 * words).Where(block => (kept[block / 32] >> block & 1) != 0)];
                a.Selections!.Add(new BlockSelection(pack.Sequence, pack.First, pack.Count, isDecode, first + h, blocks));
            }
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct Pack(int Sequence, int First, int Count, int Block);
}

/// <summary>Elements of the lists of <see cref="SampleArguments"/> that it does not tell.</summary>
internal readonly record struct SampleLengths(int LogitsRows, int History, int Biases, int Masks);
