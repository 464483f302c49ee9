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

    public override void Attention(in AttentionArguments arguments, in KernelContext context) => throw new NotSupportedException();

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
