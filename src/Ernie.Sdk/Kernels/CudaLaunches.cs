using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

/// <summary>Where kernels of <c>Kernels/Cuda</c> are launched, one after another: a stream of a GPU, or its emulation.</summary>
internal interface ICudaLauncher
{
    /// <summary>Launches a kernel.</summary>
    /// <param name="file">File that it stands in, without extension.</param>
    /// <param name="kernel">Its name.</param>
    /// <param name="grid">Blocks.</param>
    /// <param name="threads">Threads of a block.</param>
    /// <param name="sharedBytes">Dynamic shared memory of a block; at most 48 KB, which needs no attribute.</param>
    /// <param name="parameters">Its parameters, in order.</param>
    void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters);

    /// <summary>Device memory, aligned to 256 bytes, that what is launched in this call of an operator may use. What it holds is unknown.</summary>
    unsafe void* Scratch(long bytes);

    /// <summary>The same, until the step ends.</summary>
    unsafe void* Keep(long bytes);
}

/// <summary>One parameter of a kernel, in the low bytes: a pointer, an int or a float.</summary>
internal readonly unsafe record struct CudaParameter(ulong Bits)
{
    public static implicit operator CudaParameter(void* pointer) => new((ulong)pointer);
    public static implicit operator CudaParameter(int value) => new((uint)value);
    public static implicit operator CudaParameter(float value) => new(BitConverter.SingleToUInt32Bits(value));
}

/// <summary>
/// Which kernels of <c>Kernels/Cuda</c> make an operator, and with which geometry. All pointers of the arguments are device memory, so nothing of a step but its numbers of tokens and sequences is looked at,
/// and a launch sequence can be captured as a CUDA graph.
/// </summary>
/// <param name="launcher">Where they are launched.</param>
/// <param name="step">The running step; null: nothing is known of it, and nothing is kept for other layers.</param>
internal sealed unsafe class CudaLaunches(ICudaLauncher launcher, CudaStep? step = null)
{
    private const int PackBytes = 16, TileBytes = 16, BlockScaleBytes = 8;
    /// <summary>Staged tiles of keys and values (attention.cu).</summary>
    private const int StageBytes = 32_768, Int8StageBytes = 16_896, SummaryBytes = 8192;
    /// <summary>Staged tokens (linear.cu).</summary>
    private const int WideBytes = 15_360;

    /// <summary>Largest <see cref="AttentionArguments.HeadDim"/>; it is a multiple of 16.</summary>
    public const int MaxHeadDim = 128;
    /// <summary>Most columns of a norm: those that its registers hold.</summary>
    public const int MaxNormColumns = 8192;
    /// <summary>Most experts of a layer.</summary>
    public const int MaxExperts = 256;
    /// <summary>Most blocks of a sequence under sparse attention: what the scores of eight queries in 48 KB of shared memory allow, and 44 for each lane of a warp.</summary>
    public const int MaxSparseBlocks = 1408;

    /// <summary>How products with bf16 and packed weights take their tokens; null chooses by their number. No bit of a result depends on it.</summary>
    public CudaTiling? Tiling { get; init; }

    public void AddRmsNorm(in AddRmsNormArguments a)
    {
        if (a.Columns > MaxNormColumns) throw new NotSupportedException($"The CUDA kernels norm {MaxNormColumns:N0} columns at most; these are {a.Columns:N0}.");
        step?.Written(a.Output);
        step?.Written(a.Sum);
        var codes = default(QuantisedRows);
        if (step is { Quantises: true })
        {
            step.Norm.Reserve(a.TokenCount, a.Columns, Kept);
            codes = step.Norm.Begin(a.Output, a.TokenCount, a.Columns);
        }
        launcher.Launch("norm", "add_rms_norm", (a.TokenCount, 1, 1), 256, 32, a.Input, a.First, a.Second, a.Weight, a.Sum, a.Output, (void*)codes.Codes, (void*)codes.Scales, a.Columns, a.Epsilon);
    }

    public void Linear(in LinearArguments a)
    {
        var isQuantised = step is { Quantises: true } && a.SwiGlu && IsGated(a.Weight, (int)(a.Weight.Rows / a.Weight.SectionRows), TilingOf(a.Weight.Format, a.TokenCount));
        if (isQuantised) step!.Next.Reserve(a.TokenCount, (int)a.OutputSize, Kept);
        var input = Prepare(a.Weight.Format, a.Input, a.TokenCount, (int)a.Weight.Columns);
        // Whether it was that or not, the product that follows has been.
        step?.Next.Forget();
        step?.Written(a.Output);
        Multiply(a, input, isQuantised && input.Data != (void*)step!.Next.Address);
    }

    private void Multiply(in LinearArguments a, Activations input, bool isQuantised)
    {
        var sections = (int)(a.Weight.Rows / a.Weight.SectionRows);
        var tiling = TilingOf(a.Weight.Format, a.TokenCount);
        var tile = Tokens(tiling);
        var tileCount = Blocks(a.TokenCount, tile);
        if (!a.SwiGlu)
        {
            Product(a.Weight, 1, sections, input, null, null, a.TokenCount, 1, tileCount, tiling, a.Output);
            return;
        }
        if (IsGated(a.Weight, sections, tiling))
        {
            var codes = isQuantised ? Rows(step!.Next.Begin(a.Output, a.TokenCount, (int)a.OutputSize)) : default;
            Gated(a.Weight, 1, input, null, null, a.TokenCount, 1, tileCount, a.Output, codes);
            return;
        }
        var product = Floats(a.TokenCount * a.Weight.Rows);
        Product(a.Weight, 1, sections, input, null, null, a.TokenCount, 1, tileCount, tiling, product);
        SwiGlu(product, a.TokenCount, (int)a.Weight.Rows / 2, a.Output);
    }

    /// <summary>Fills <see cref="ExpertsArguments.Selected"/> and <see cref="ExpertsArguments.Weights"/>.</summary>
    public void Route(in ExpertsArguments a)
    {
        // Where no expert is here, what follows is a copy.
        step?.Written(a.Output);
        launcher.Launch("experts", "router_select", (Blocks(a.TokenCount, 8), 1, 1), 256, 0, RouterLogits(a), a.CorrectionBias, a.TokenCount, a.ExpertCount, a.ExpertsPerToken, a.NormMin, a.Selected, a.Weights);
    }

    private float* RouterLogits(in ExpertsArguments a)
    {
        if (a.ExpertCount > MaxExperts) throw new NotSupportedException($"The CUDA kernels route to {MaxExperts} experts at most; the layer has {a.ExpertCount}.");
        var logits = Floats((nint)a.TokenCount * a.ExpertCount);
        launcher.Launch("experts", "router_logits", (Blocks(a.ExpertCount, 4), Blocks(a.TokenCount, 4), 1), 256, 512, a.Input, a.Router, a.TokenCount, a.HiddenSize, a.ExpertCount, logits);
        return logits;
    }

    /// <summary>Adds what another device has computed of the same tokens, [tokens, hidden], to <see cref="ExpertsArguments.Output"/>.</summary>
    public void AddPartial(float* part, in ExpertsArguments a) =>
        launcher.Launch("experts", "add_partial", (a.TokenCount, Blocks(a.HiddenSize, 256), 1), 256, 0, part, a.HiddenSize, a.Output);

    public void Experts(in ExpertsArguments a)
    {
        step?.Written(a.Output);
        Compute(a);
    }

    private void Compute(in ExpertsArguments a)
    {
        var (experts, assignments) = (a.ExpertEnd - a.ExpertBegin, checked(a.TokenCount * a.ExpertsPerToken));
        var selected = a.Selected != null ? a.Selected : (int*)launcher.Scratch((long)assignments * sizeof(int));
        var weights = a.Weights != null ? a.Weights : Floats(assignments);
        var tiling = TilingOf(a.GateUp.Format, assignments / experts);
        var tile = Tokens(tiling);
        var tileCount = Math.Min(assignments, assignments / tile + experts);
        var order = (int*)launcher.Scratch((long)assignments * sizeof(int));
        var tiles = (byte*)launcher.Scratch((long)tileCount * TileBytes);
        var groupShared = (34 * experts + 2) * sizeof(int);
        if (a.Router != null && a.TokenCount <= 32)
        {
            launcher.Launch("experts", "select_and_group_experts", (1, 1, 1), 1024, groupShared, RouterLogits(a), a.CorrectionBias, a.TokenCount, a.ExpertCount, a.ExpertsPerToken, a.NormMin, selected, weights,
                a.ExpertBegin, a.ExpertEnd, a.Slots, tile, tileCount, order, tiles);
        }
        else
        {
            if (a.Router != null)
            {
                var routed = a;
                routed.Selected = selected;
                routed.Weights = weights;
                Route(routed);
            }
            launcher.Launch("experts", "group_experts", (1, 1, 1), 1024, groupShared, selected, assignments, a.ExpertBegin, a.ExpertEnd, a.Slots, tile, tileCount, order, tiles);
        }

        var input = Prepare(a.GateUp.Format, a.Input, a.TokenCount, a.HiddenSize);
        Activations middle;
        if (IsGated(a.GateUp, 2, tiling) && a.Down.Format.IsPacked)
        {
            middle = Codes(assignments, a.IntermediateSize);
            Gated(a.GateUp, experts, input, tiles, order, assignments, a.ExpertsPerToken, tileCount, null, middle);
        }
        else
        {
            var gateUp = Floats((nint)assignments * 2 * a.IntermediateSize);
            Product(a.GateUp, experts, 2, input, tiles, order, assignments, a.ExpertsPerToken, tileCount, tiling, gateUp);
            middle = Prepare(a.Down.Format, gateUp, assignments, a.IntermediateSize, swiGlu: true);
        }
        var results = Floats((nint)assignments * a.HiddenSize);
        Product(a.Down, experts, 1, middle, tiles, order, assignments, 1, tileCount, tiling, results);
        launcher.Launch("experts", "combine_experts", (a.TokenCount, Blocks(a.HiddenSize, 256), 1), 256, 0, results, selected, weights, a.ExpertsPerToken, a.ExpertBegin, a.ExpertEnd, a.Slots, a.HiddenSize, a.Output);
    }

    /// <param name="a">The operator's.</param>
    /// <param name="angles">[positions, headDim / 2, 2] cos and sin (<see cref="RopeTable"/>), device memory.</param>
    public CudaSelection Attention(in AttentionArguments a, float* angles)
    {
        step?.Written(a.Output);
        if (a.HeadDim > MaxHeadDim || a.HeadDim % 16 != 0) throw new NotSupportedException($"The CUDA kernels know heads of 16, 32, .. {MaxHeadDim} channels; these have {a.HeadDim}.");
        if (a.Limits != null && a.BlockTableStride > MaxSparseBlocks) throw new NotSupportedException($"The CUDA kernels select among {MaxSparseBlocks} blocks at most; the block tables have {a.BlockTableStride}.");
        var group = a.HeadCount / a.KvHeadCount;
        var (range, rangeHeads) = (a.KvHeadEnd - a.KvHeadBegin, (a.KvHeadEnd - a.KvHeadBegin) * group);
        var stageBytes = a.Layout.ElementType == KvElementType.Int8 ? Int8StageBytes : StageBytes;
        var type = a.Layout.ElementType switch { KvElementType.Float32 => "fp32", KvElementType.BFloat16 => "bf16", _ => "int8" };
        var kind = step?.Kind ?? CudaStepKind.Mixed;
        var isGroupOfDecodes = kind == CudaStepKind.Decode;
        // A block of codes is inside a head.
        var isQuantised = isGroupOfDecodes && step is { Quantises: true } && a.HeadDim % PanelLayout.BlockColumns == 0;
        if (isQuantised) step!.Next.Reserve(a.TokenCount, rangeHeads * a.HeadDim, Kept);
        int prefillCount = isGroupOfDecodes ? 0 : a.TokenCount / KvBlockLayout.BlockSize + 2 * a.SequenceCount, decodeCount = a.SequenceCount, packCount = prefillCount + decodeCount;
        var packs = (byte*)Packs(a, prefillCount, packCount);
        var decodePacks = packs + (nint)prefillCount * PackBytes;
        var query = Floats((nint)a.TokenCount * rangeHeads * a.HeadDim);
        if (isGroupOfDecodes)
        {
            launcher.Launch("attention", $"append_token_{type}", (decodeCount, range, 1), 1024, SummaryBytes, a.Qkv, a.Positions, angles, packs, a.BlockTables, a.BlockTableStride, a.Pool, a.Gate,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, query);
        }
        else
        {
            Clear(a.Output, (nint)a.TokenCount * rangeHeads * a.HeadDim);
            launcher.Launch("attention", $"rotate_append_{type}", (packCount, rangeHeads + 2 * range, 1), 256, 0, a.Qkv, a.Positions, angles, packs, a.BlockTables, a.BlockTableStride, a.Pool,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, query);
            launcher.Launch("attention", $"summarise_{type}", (packCount, range, 1), 1024, SummaryBytes, a.Positions, packs, a.BlockTables, a.BlockTableStride, a.Pool, a.Gate, a.KvHeadCount, a.KvHeadBegin, a.HeadDim);
        }

        var words = Blocks(a.BlockTableStride, 32);
        uint* prefillKept = null, decodeKept = null;
        if (!isGroupOfDecodes)
        {
            if (a.Limits != null && !a.DensePrefill && step is not { PrefillIsDense: true })
            {
                prefillKept = (uint*)launcher.Scratch((nint)prefillCount * rangeHeads * words * sizeof(uint));
                Clear(prefillKept, (nint)prefillCount * rangeHeads * words);
                launcher.Launch("attention", "select_prefill", (prefillCount, rangeHeads, 16), 256, 8 * sizeof(float) * (a.HeadDim + a.BlockTableStride), query, a.Positions, packs, a.BlockTables, a.BlockTableStride, a.Pool,
                    checked((int)a.Layout.BlockBytes), checked((int)a.Layout.KeySum(0)), a.Limits, a.Gate != null ? 1 : 0, a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, words, prefillKept);
            }
            launcher.Launch("attention", $"attend_prefill_{type}", (2, rangeHeads, prefillCount), 256, stageBytes, query, a.Positions, packs, a.BlockTables, a.BlockTableStride, a.Pool, prefillKept, words,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, a.Output);
        }
        if (kind == CudaStepKind.Prefill) return new CudaSelection((int*)packs, prefillCount, decodeCount, prefillKept, null, words);

        if (a.Limits != null && step is not { DecodeIsDense: true })
        {
            decodeKept = (uint*)launcher.Scratch((nint)decodeCount * range * words * sizeof(uint));
            var scores = Floats((nint)decodeCount * rangeHeads * a.BlockTableStride);
            launcher.Launch("attention", "score_decode", (decodeCount, range, words), 256, 0, query, a.Positions, decodePacks, a.BlockTables, a.BlockTableStride, a.Pool,
                checked((int)a.Layout.BlockBytes), checked((int)a.Layout.KeySum(0)), a.Limits, a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, scores);
            launcher.Launch("attention", "select_decode", (decodeCount, range, 1), 256, 8 * MaxSparseBlocks / 32 * sizeof(uint), scores, a.Positions, decodePacks, a.BlockTableStride, a.Limits,
                a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, words, decodeKept);
        }
        var partial = Floats((nint)decodeCount * rangeHeads * a.BlockTableStride * a.HeadDim);
        var sums = Floats((nint)decodeCount * rangeHeads * a.BlockTableStride * 2);
        launcher.Launch("attention", $"attend_decode_{type}", (a.BlockTableStride, range * Blocks(group, 8), decodeCount), 32, stageBytes, query, a.Positions, decodePacks, a.BlockTables, a.BlockTableStride, a.Pool,
            decodeKept, words, a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, partial, sums);
        var codes = isQuantised ? step!.Next.Begin(a.Output, a.TokenCount, rangeHeads * a.HeadDim) : default;
        launcher.Launch("attention", "combine_blocks", (decodeCount, rangeHeads, 1), 512, (48 + 32 * MaxHeadDim + a.BlockTableStride) * sizeof(float), partial, sums, decodePacks, decodeKept, words,
            a.HeadCount, a.KvHeadCount, a.KvHeadBegin, a.KvHeadEnd, a.HeadDim, a.BlockTableStride, isGroupOfDecodes ? 1 : 0, a.Output, (void*)codes.Codes, (void*)codes.Scales);
        return new CudaSelection((int*)packs, prefillCount, decodeCount, prefillKept, decodeKept, words);
    }

    /// <summary>What a step consists of, the same for all its layers.</summary>
    private void* Packs(in AttentionArguments a, int prefillCount, int packCount)
    {
        if (step is { Packs: not null } && step.PacksMadeBy != a.Pool) return step.Packs;
        var bytes = (long)packCount * PackBytes;
        var packs = (byte*)(step is null ? launcher.Scratch(bytes) : step.Packs != null ? step.Packs : launcher.Keep(bytes));
        launcher.Launch("attention", "make_packs", (1, 1, 1), 256, 2 * sizeof(int) * a.SequenceCount, a.Positions, a.SequenceStarts, a.Flags, a.SequenceCount, packs, prefillCount, packs + (nint)prefillCount * PackBytes);
        if (step is null) return packs;
        step.Packs = packs;
        step.PacksMadeBy = a.Pool;
        return packs;
    }

    public void Sample(in SampleArguments a) => launcher.Launch("sampling", "sample", (a.RowCount, 1, 1), 1024, 8720, a.Logits, a.VocabSize, a.Undefined, a.UndefinedCount, a.Rows, a.HistoryIds, a.HistoryCounts,
        a.BiasIds, a.BiasValues, a.Allowed, a.AllowedWords, Floats((nint)a.RowCount * a.VocabSize), a.Tokens, a.LogProbabilities, a.TopIds, a.TopLogProbabilities, a.MaxTop);

    private CudaTiling TilingOf(WeightFormat format, int tokens) =>
        format.Kind == WeightKind.Float32 ? CudaTiling.Eight : Tiling ?? (tokens <= 8 ? CudaTiling.Eight : tokens < 64 ? CudaTiling.ThirtyTwo : CudaTiling.Wide);

    private static int Tokens(CudaTiling tiling) => tiling == CudaTiling.Eight ? 8 : 32;

    private void Product(in PackedMatrix weight, int experts, int sections, Activations input, byte* tiles, int* order, int count, int divisor, int tileCount, CudaTiling tiling, float* output)
    {
        var (sectionRows, columns) = ((int)(weight.Rows / experts / sections), (int)weight.Columns);
        // A block has a panel, for whose spans it needs [8, tokens, 16 rows], or wide eight of them.
        var panels = (int)PanelLayout.PanelCount(sectionRows);
        var (blocks, shared, suffix) = tiling == CudaTiling.Wide ? (sections * Blocks(panels, 8), weight.Format.IsPacked ? WideBytes : 0, "wide") : (sections * panels, 8 * Tokens(tiling) * PanelLayout.Rows * sizeof(float), $"{Tokens(tiling)}");
        switch (weight.Format.Kind)
        {
            case WeightKind.Float32:
                launcher.Launch("linear", "linear_fp32_8", (Blocks(sections * sectionRows, 8), tileCount, 1), 256, 0, weight.Data, sections, sectionRows, columns, input.Data, tiles, order, count, divisor, output);
                break;
            case WeightKind.BFloat16:
                launcher.Launch("linear", $"linear_bf16_{suffix}", (blocks, tileCount, 1), 256, shared, weight.Data, sections, sectionRows, columns, input.Data, tiles, order, count, divisor, output);
                break;
            default:
                launcher.Launch("linear", $"linear_{NameOf(weight.Format)}_{suffix}", (blocks, tileCount, 1), 256, shared,
                    weight.Data, sections, sectionRows, columns, weight.Format.Group / PanelLayout.BlockColumns, input.Data, input.Scales, tiles, order, count, divisor, output);
                break;
        }
    }

    /// <summary>Whether few tokens meet gates and ups in packed sections: one kernel has both, and their SwiGLU.</summary>
    private static bool IsGated(in PackedMatrix weight, int sections, CudaTiling tiling) => tiling == CudaTiling.Eight && sections == 2 && weight.Format.IsPacked;

    /// <param name="weight">Of each expert its gates, then its ups.</param>
    /// <param name="experts">How many.</param>
    /// <param name="input">Prepared for the weight.</param>
    /// <param name="tiles">Of 8 tokens, or null.</param>
    /// <param name="order">Assignments by position, or null.</param>
    /// <param name="count">Assignments.</param>
    /// <param name="divisor">Assignments of a token.</param>
    /// <param name="tileCount">Tiles.</param>
    /// <param name="output">[assignments, columns], or null.</param>
    /// <param name="codes">The output as a packed product reads it, or nothing.</param>
    private void Gated(in PackedMatrix weight, int experts, Activations input, byte* tiles, int* order, int count, int divisor, int tileCount, float* output, Activations codes)
    {
        var (sectionRows, group) = ((int)(weight.Rows / experts / 2), weight.Format.Group / PanelLayout.BlockColumns);
        var (grid, shared) = ((Blocks(sectionRows, PanelLayout.BlockColumns), tileCount, 1), 8 * 4 * 8 * PanelLayout.Rows * sizeof(float));
        launcher.Launch("linear", $"gated_{NameOf(weight.Format)}", grid, 256, shared, weight.Data, sectionRows, (int)weight.Columns, group, input.Data, input.Scales, tiles, order, count, divisor, output, codes.Data, codes.Scales);
    }

    private static string NameOf(WeightFormat format) => format.Kind switch { WeightKind.Int8 => "int8", WeightKind.Int4 => "int4", _ => "int2" };

    /// <summary>Rows as products with weights of a format read them. With <paramref name="swiGlu"/> they are gates, then ups, [rows, 2 · columns].</summary>
    private Activations Prepare(WeightFormat format, float* x, int rows, int columns, bool swiGlu = false)
    {
        var blocks = Blocks(columns, PanelLayout.BlockColumns);
        var prefix = swiGlu ? "swiglu_" : "";
        switch (format.Kind)
        {
            case WeightKind.Float32:
                if (!swiGlu) return new Activations(x, null);
                var floats = Floats((nint)rows * columns);
                SwiGlu(x, rows, columns, floats);
                return new Activations(floats, null);
            case WeightKind.BFloat16:
                var parts = launcher.Scratch((long)rows * 3 * blocks * PanelLayout.BlockColumns * sizeof(ushort));
                launcher.Launch("linear", $"{prefix}split_rows", (rows, Blocks(blocks * PanelLayout.BlockColumns, 256), 1), 256, 0, x, columns, parts);
                return new Activations(parts, null);
            default:
                if (!swiGlu && (step?.Norm.Of(x, rows, columns) ?? step?.Next.Of(x, rows, columns)) is { } known) return Rows(known);
                var quantised = Codes(rows, columns);
                launcher.Launch("linear", $"{prefix}quantise_rows", (rows, Blocks(blocks, 8), 1), 256, 0, x, columns, quantised.Data, quantised.Scales);
                return quantised;
        }
    }

    /// <summary>Memory for quantised rows.</summary>
    private Activations Codes(int rows, int columns)
    {
        var blocks = (long)rows * Blocks(columns, PanelLayout.BlockColumns);
        return new Activations(launcher.Scratch(blocks * PanelLayout.BlockColumns), launcher.Scratch(blocks * BlockScaleBytes));
    }

    /// <summary>Memory for quantised rows until the step ends.</summary>
    private QuantisedRows Kept(int rows, int columns)
    {
        var blocks = (long)rows * Blocks(columns, PanelLayout.BlockColumns);
        return new QuantisedRows((nint)launcher.Keep(blocks * PanelLayout.BlockColumns), (nint)launcher.Keep(blocks * BlockScaleBytes), rows, Blocks(columns, PanelLayout.BlockColumns) * PanelLayout.BlockColumns);
    }

    private static Activations Rows(QuantisedRows rows) => new((void*)rows.Codes, (void*)rows.Scales);

    private void SwiGlu(float* gateUp, int rows, int columns, float* output) => launcher.Launch("linear", "swiglu_rows", (rows, Blocks(columns, 256), 1), 256, 0, gateUp, columns, output);

    private void Clear(void* words, nint count) => launcher.Launch("attention", "clear_words", (Blocks(checked((int)count), 256), 1, 1), 256, 0, words, (int)count);

    private float* Floats(nint count) => (float*)launcher.Scratch(count * sizeof(float));

    private static int Blocks(int count, int size) => (count + size - 1) / size;

    private readonly struct Activations(void* data, void* scales)
    {
        public void* Data => data;
        public void* Scales => scales;
    }
}

/// <summary>Tokens that meet a weight at a time.</summary>
internal enum CudaTiling
{
    /// <summary>8 tokens; eight warps share a panel.</summary>
    Eight,
    /// <summary>32 tokens; eight warps share a panel.</summary>
    ThirtyTwo,
    /// <summary>32 tokens; each warp has a panel.</summary>
    Wide,
}

/// <summary>What a call of attention kept, in scratch memory of the device.</summary>
/// <param name="packs">[prefill count + decode count] {sequence, first token, tokens, block}; those without tokens say nothing.</param>
/// <param name="prefillCount">Packs of prefills.</param>
/// <param name="decodeCount">Packs of decode steps, which follow.</param>
/// <param name="prefillKept">[prefill count, heads, words] a bit for each block; null: all.</param>
/// <param name="decodeKept">[decode count, kv heads, words] likewise.</param>
/// <param name="words">Words of a list.</param>
internal readonly unsafe struct CudaSelection(int* packs, int prefillCount, int decodeCount, uint* prefillKept, uint* decodeKept, int words)
{
    public int* Packs => packs;
    public int PrefillCount => prefillCount;
    public int DecodeCount => decodeCount;
    public uint* PrefillKept => prefillKept;
    public uint* DecodeKept => decodeKept;
    public int Words => words;
}
