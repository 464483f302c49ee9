using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// The operators as their CUDA kernels compute them, emulated. Host memory plays the device's, so this is also how the launches of an operator follow one another.
/// </summary>
internal sealed unsafe class EmulatedCudaKernels : CpuKernels
{
    private const int TileStructBytes = 16, ScaleStructBytes = 8;

    public override string Name => "cuda";
    public override bool IsSupported => CudaEmulation.Compiler is not null;

    /// <summary>Tokens of a tile: 8 or 32; 0 chooses by the number of tokens.</summary>
    public int TileTokens { get; init; }

    public override void Linear(in LinearArguments a, in KernelContext context)
    {
        var (columns, rows) = ((int)a.Weight.Columns, (int)a.Weight.Rows);
        var sections = (int)(a.Weight.Rows / a.Weight.SectionRows);
        var tile = Tile(a.Weight.Format, a.TokenCount);
        using var input = new Activations(a.Weight.Format, a.Input, a.TokenCount, columns);
        if (!a.SwiGlu)
        {
            Product(a.Weight, 1, sections, input, null, null, a.TokenCount, 1, (a.TokenCount + tile - 1) / tile, tile, a.Output);
            return;
        }
        using var product = new NativeArray<float>((nint)a.TokenCount * rows);
        Product(a.Weight, 1, sections, input, null, null, a.TokenCount, 1, (a.TokenCount + tile - 1) / tile, tile, product.Pointer);
        CudaEmulation.Of("linear").Launch("swiglu_rows", ((rows / 2 + 255) / 256, a.TokenCount, 1), 256, 0, product.Pointer, rows / 2, a.Output);
    }

    public override void Experts(in ExpertsArguments a, in KernelContext context)
    {
        var cuda = CudaEmulation.Of("experts");
        var (experts, assignments) = (a.ExpertEnd - a.ExpertBegin, a.TokenCount * a.ExpertsPerToken);
        using var logits = new NativeArray<float>((nint)a.TokenCount * a.ExpertCount);
        using NativeArray<int> selected = new(assignments), order = new(assignments);
        using var weights = new NativeArray<float>(assignments);
        cuda.Launch("router_logits", ((a.ExpertCount + 7) / 8, (a.TokenCount + 3) / 4, 1), 256, 0, a.Input, a.Router, a.TokenCount, a.HiddenSize, a.ExpertCount, logits.Pointer);
        cuda.Launch("router_select", ((a.TokenCount + 7) / 8, 1, 1), 256, 0, logits.Pointer, a.CorrectionBias, a.TokenCount, a.ExpertCount, a.ExpertsPerToken, a.NormMin, selected.Pointer, weights.Pointer);

        var tile = Tile(a.GateUp.Format, assignments / experts);
        var tileCount = Math.Min(assignments, assignments / tile + experts);
        using var tiles = new NativeArray<byte>(tileCount * TileStructBytes);
        tiles.Span.Fill(0xFF);
        cuda.Launch("group_experts", (1, 1, 1), 1024, (34 * experts + 2) * sizeof(int), selected.Pointer, assignments, a.ExpertBegin, a.ExpertEnd, tile, tileCount, order.Pointer, tiles.Pointer);

        using var input = new Activations(a.GateUp.Format, a.Input, a.TokenCount, a.HiddenSize);
        using var gateUp = new NativeArray<float>((nint)assignments * 2 * a.IntermediateSize);
        using var results = new NativeArray<float>((nint)assignments * a.HiddenSize);
        Product(a.GateUp, experts, 2, input, tiles.Pointer, order.Pointer, assignments, a.ExpertsPerToken, tileCount, tile, gateUp.Pointer);
        using var activations = new Activations(a.Down.Format, gateUp.Pointer, assignments, a.IntermediateSize, swiGlu: true);
        Product(a.Down, experts, 1, activations, tiles.Pointer, order.Pointer, assignments, 1, tileCount, tile, results.Pointer);
        cuda.Launch("combine_experts", ((a.HiddenSize + 255) / 256, a.TokenCount, 1), 256, 0, results.Pointer, selected.Pointer, weights.Pointer, a.ExpertsPerToken, a.ExpertBegin, a.ExpertEnd, a.HiddenSize, a.Output);
        if (a.Selected != null) selected.Span.CopyTo(new Span<int>(a.Selected, assignments));
        if (a.Weights != null) weights.Span.CopyTo(new Span<float>(a.Weights, assignments));
    }

    public override void Attention(in AttentionArguments a, in KernelContext context)
    {
        AttentionSteps.Prepare(a);
        List<Pack> prefill = [], decode = [];
        var (last, longest) = (0, 0);
        for (var s = 0; s < a.SequenceCount; s++)
        {
            if (AttentionSteps.IsDead(a, s)) continue;
            for (int t = a.SequenceStarts[s], count; t < a.SequenceStarts[s + 1]; t += count)
            {
                var block = a.Positions[t] / KvBlockLayout.BlockSize;
                count = Math.Min(a.SequenceStarts[s + 1] - t, KvBlockLayout.BlockSize - a.Positions[t] % KvBlockLayout.BlockSize);
                (AttentionSteps.IsDecode(a, s) ? decode : prefill).Add(new Pack(s, t, count, block));
                longest = Math.Max(longest, block + 1);
                last = Math.Max(last, a.Positions[t + count - 1]);
            }
        }
        var group = a.HeadCount / a.KvHeadCount;
        var (range, rangeHeads) = (a.KvHeadEnd - a.KvHeadBegin, (a.KvHeadEnd - a.KvHeadBegin) * group);
        new Span<float>(a.Output, a.TokenCount * rangeHeads * a.HeadDim).Clear();
        using var angles = new NativeArray<float>((nint)(last + 1) * a.HeadDim);
        for (var p = 0; p <= last && longest > 0; p++) a.Rope.Row(p).CopyTo(angles.Span[(p * a.HeadDim)..]);
        using var query = new NativeArray<float>((nint)a.TokenCount * rangeHeads * a.HeadDim);
        query.Span.Fill(float.NaN);

        var cuda = CudaEmulation.Of("attention");
        var type = a.Layout.ElementType switch { KvElementType.Float32 => "fp32", KvElementType.BFloat16 => "bf16", _ => "int8" };
        Pack[] all = [.. prefill, .. decode];
        if (all.Length == 0) return;
        using var packs = NativeArray<Pack>.From(all);
        cuda.Launch($"rotate_append_{type}", (all.Length, rangeHeads + 2 * range, 1), 256, 0, a.Qkv, a.Positions, angles.Pointer, packs.Pointer, a.BlockTables, a.BlockTableStride, a.Pool,
            a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, query.Pointer);
        cuda.Launch($"summarise_{type}", (all.Length, range, 1), 128, 0, a.Positions, packs.Pointer, a.BlockTables, a.BlockTableStride, a.Pool, a.Gate, a.KvHeadCount, a.KvHeadBegin, a.HeadDim);

        var words = (longest + 31) / 32;
        var selectShared = 32 * (a.HeadDim + longest);
        using var prefillKept = new NativeArray<uint>(Math.Max(1, prefill.Count * rangeHeads * words));
        using var decodeKept = new NativeArray<uint>(Math.Max(1, decode.Count * range * words));
        prefillKept.Span.Clear();
        decodeKept.Span.Clear();
        uint* selectedPrefill = a.Limits == null || a.DensePrefill ? null : prefillKept.Pointer, selectedDecode = a.Limits == null ? null : decodeKept.Pointer;
        if (prefill.Count > 0)
        {
            if (selectedPrefill != null)
            {
                cuda.Launch("select_prefill", (prefill.Count, rangeHeads, 16), 256, selectShared, query.Pointer, a.Positions, packs.Pointer, a.BlockTables, a.BlockTableStride, a.Pool,
                    (int)a.Layout.BlockBytes, (int)a.Layout.KeySum(0), a.Limits, a.Gate != null ? 1 : 0, a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, words, selectedPrefill);
            }
            cuda.Launch($"attend_prefill_{type}", (4, rangeHeads, prefill.Count), 128, 0, query.Pointer, a.Positions, packs.Pointer, a.BlockTables, a.BlockTableStride, a.Pool, selectedPrefill, words,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, a.Output);
        }
        if (decode.Count > 0)
        {
            var decodePacks = packs.Pointer + prefill.Count;
            if (selectedDecode != null)
            {
                cuda.Launch("select_decode", (decode.Count, range, (group + 7) / 8), 256, selectShared, query.Pointer, a.Positions, decodePacks, a.BlockTables, a.BlockTableStride, a.Pool,
                    (int)a.Layout.BlockBytes, (int)a.Layout.KeySum(0), a.Limits, a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, words, selectedDecode);
            }
            var splits = (longest + 1) / 2;
            using NativeArray<float> partial = new((nint)decode.Count * rangeHeads * splits * a.HeadDim), sums = new((nint)decode.Count * rangeHeads * splits * 2);
            partial.Span.Fill(float.NaN);
            sums.Span.Fill(float.NaN);
            cuda.Launch($"attend_decode_{type}", ((splits + 3) / 4, range * ((group + 7) / 8), decode.Count), 128, 0, query.Pointer, a.Positions, decodePacks, a.BlockTables, a.BlockTableStride, a.Pool, selectedDecode, words,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, splits, partial.Pointer, sums.Pointer);
            cuda.Launch("combine_splits", (decode.Count, rangeHeads, 1), 128, 16, partial.Pointer, sums.Pointer, decodePacks, selectedDecode, words,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, splits, a.Output);
        }

        foreach (var pack in all.OrderBy(static pack => pack.First))
        {
            if (!AttentionSteps.IsSparse(a, pack.Sequence, pack.Block)) continue;
            var isDecode = AttentionSteps.IsDecode(a, pack.Sequence);
            var lists = isDecode ? range : rangeHeads;
            var kept = isDecode ? selectedDecode + decode.IndexOf(pack) * range * words : selectedPrefill + prefill.IndexOf(pack) * rangeHeads * words;
            for (var i = 0; i < lists; i++)
            {
                int[] blocks = [.. Enumerable.Range(0, 32 * words).Where(j => (kept[i * words + j / 32] >> j & 1) != 0)];
                a.Selections?.Add(new BlockSelection(pack.Sequence, pack.First, pack.Count, isDecode, (isDecode ? a.KvHeadBegin : a.KvHeadBegin * group) + i, blocks));
            }
        }
    }

    /// <summary>The step's tokens of a sequence inside one of its blocks.</summary>
    private readonly record struct Pack(int Sequence, int First, int Count, int Block);

    private int Tile(WeightFormat format, int tokens) => format.Kind == WeightKind.Float32 ? 8 : TileTokens != 0 ? TileTokens : tokens <= 8 ? 8 : 32;

    private static void Product(in PackedMatrix weight, int experts, int sections, Activations input, byte* tiles, int* order, int count, int divisor, int tileCount, int tileTokens, float* output)
    {
        var cuda = CudaEmulation.Of("linear");
        var sectionRows = (int)(weight.Rows / experts / sections);
        var columns = (int)weight.Columns;
        var panels = sections * (int)PanelLayout.PanelCount(sectionRows);
        var shared = tileTokens * 512;
        switch (weight.Format.Kind)
        {
            case WeightKind.Float32:
                var rows = sections * sectionRows;
                cuda.Launch("linear_fp32_8", ((rows + 7) / 8, tileCount, 1), 256, 0, weight.Data, sections, sectionRows, columns, input.Floats, tiles, order, count, divisor, output);
                break;
            case WeightKind.BFloat16:
                cuda.Launch($"linear_bf16_{tileTokens}", (panels, tileCount, 1), 256, shared, weight.Data, sections, sectionRows, columns, input.Codes, tiles, order, count, divisor, output);
                break;
            default:
                var name = weight.Format.Kind switch { WeightKind.Int8 => "int8", WeightKind.Int4 => "int4", _ => "int2" };
                cuda.Launch($"linear_{name}_{tileTokens}", (panels, tileCount, 1), 256, shared,
                    weight.Data, sections, sectionRows, columns, weight.Format.Group / PanelLayout.BlockColumns, input.Codes, input.Scales, tiles, order, count, divisor, output);
                break;
        }
    }

    /// <summary>Rows as products with weights of a format read them.</summary>
    private sealed class Activations : IDisposable
    {
        private readonly NativeArray<byte>? _codes, _scales;
        private readonly NativeArray<float>? _floats;

        public Activations(WeightFormat format, float* x, int rows, int columns, bool swiGlu = false)
        {
            var cuda = CudaEmulation.Of("linear");
            var blocks = (columns + PanelLayout.BlockColumns - 1) / PanelLayout.BlockColumns;
            var prefix = swiGlu ? "swiglu_" : "";
            switch (format.Kind)
            {
                case WeightKind.Float32:
                    Floats = x;
                    if (!swiGlu) return;
                    _floats = new NativeArray<float>((nint)rows * columns);
                    Floats = _floats.Pointer;
                    cuda.Launch("swiglu_rows", ((columns + 255) / 256, rows, 1), 256, 0, x, columns, Floats);
                    break;
                case WeightKind.BFloat16:
                    _codes = new NativeArray<byte>((nint)rows * 3 * blocks * PanelLayout.BlockColumns * sizeof(ushort));
                    cuda.Launch($"{prefix}split_rows", ((blocks * PanelLayout.BlockColumns + 255) / 256, rows, 1), 256, 0, x, columns, _codes.Pointer);
                    break;
                default:
                    _codes = new NativeArray<byte>((nint)rows * blocks * PanelLayout.BlockColumns);
                    _scales = new NativeArray<byte>((nint)rows * blocks * ScaleStructBytes);
                    cuda.Launch($"{prefix}quantise_rows", ((blocks + 7) / 8, rows, 1), 256, 0, x, columns, _codes.Pointer, _scales.Pointer);
                    break;
            }
        }

        public float* Floats { get; }
        public byte* Codes => _codes!.Pointer;
        public byte* Scales => _scales!.Pointer;

        public void Dispose()
        {
            _codes?.Dispose();
            _scales?.Dispose();
            _floats?.Dispose();
        }
    }
}
