using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored in WINT2: columns of a stored matrix of N outputs, which may hold further ones (fused projections) beside them.</summary>
internal sealed class Wint2Tensor : CheckpointTensor
{
    /// <summary>Inputs in a tile. Divides a group, so that a tile has one scale an output.</summary>
    private const int TileDepth = 32;
    /// <summary>Outputs in a tile: two cache lines of codes; the tile of floats (16 KB) stays in the first-level cache.</summary>
    private const int TileWidth = 128;

    /// <summary>uint8 [K/4, N]</summary>
    public required StoredTensor Codes { get; init; }
    /// <summary>uint8 [K/128, N]</summary>
    public required StoredTensor GroupScales { get; init; }
    /// <summary>[N]</summary>
    public required StoredTensor SuperScales { get; init; }
    /// <summary>float32 [N]</summary>
    public required StoredTensor CodeScales { get; init; }
    /// <summary>float32 [N]</summary>
    public required StoredTensor CodeZeroPoints { get; init; }
    /// <summary>N, the outputs of the stored matrix.</summary>
    public required long Stride { get; init; }
    /// <summary>Stored output that is this weight's row 0.</summary>
    public required long FirstOutput { get; init; }

    public override WeightFormat? StoredFormat => WeightFormat.Int2;

    public override unsafe void ReadPanels(in PanelLayout layout, long firstRow, int rows, int at, Span<byte> panels)
    {
        if (!Holds(layout.Format) || at % PanelLayout.Rows != 0) base.ReadPanels(layout, firstRow, rows, at, panels);
        using var codes = Codes.Source!.Map(Codes.Entry);
        using var groups = GroupScales.Source!.Map(GroupScales.Entry);
        var (codeBytes, groupBytes) = (Columns / Wint2.InputsPerByte * Stride, Columns / Wint2.InputsPerScaleByte * Stride);
        if (FirstOutput + firstRow + rows > Stride || codeBytes > codes.Length || groupBytes > groups.Length) throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        Span<float> codeScale = stackalloc float[PanelLayout.Rows], codeZeroPoint = stackalloc float[PanelLayout.Rows], superScale = stackalloc float[PanelLayout.Rows];
        for (var r = 0; r < rows; r += PanelLayout.Rows)
        {
            var width = Math.Min(PanelLayout.Rows, rows - r);
            var output = FirstOutput + firstRow + r;
            ReadFinite(CodeScales, output, codeScale[..width]);
            ReadFinite(CodeZeroPoints, output, codeZeroPoint[..width]);
            ReadFinite(SuperScales, output, superScale[..width]);
            PanelPacker.PackWint2(layout, checked((int)Stride), new ReadOnlySpan<byte>(codes.Pointer + output, checked((int)(codeBytes - output))),
                new ReadOnlySpan<byte>(groups.Pointer + output, checked((int)(groupBytes - output))), codeScale[..width], codeZeroPoint[..width], superScale[..width],
                panels.Slice((int)((at + r) / PanelLayout.Rows * layout.PanelBytes), (int)layout.PanelBytes));
        }
    }

    public override unsafe void Read(long firstRow, Span<float> destination)
    {
        var rows = CheckRange(firstRow, destination);
        if (rows == 0) return;
        using var codes = Codes.Source!.Map(Codes.Entry);
        using var groups = GroupScales.Source!.Map(GroupScales.Entry);
        if (FirstOutput + firstRow + rows > Stride || Columns / Wint2.InputsPerByte * Stride > codes.Length || Columns / Wint2.InputsPerScaleByte * Stride > groups.Length)
            throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        Span<float> codeScale = stackalloc float[TileWidth], codeZeroPoint = stackalloc float[TileWidth], superScale = stackalloc float[TileWidth], step = stackalloc float[TileWidth];
        var tile = stackalloc float[TileDepth * TileWidth];
        fixed (float* target = destination)
        {
            for (long r = 0; r < rows; r += TileWidth)
            {
                var width = (int)Math.Min(TileWidth, rows - r);
                var output = FirstOutput + firstRow + r;
                ReadFinite(CodeScales, output, codeScale[..width]);
                ReadFinite(CodeZeroPoints, output, codeZeroPoint[..width]);
                SuperScales.Read(output, superScale[..width]);
                for (long k = 0; k < Columns; k += TileDepth)
                {
                    if (k % Wint2.GroupSize == 0)
                    {
                        var scales = groups.Pointer + k / Wint2.InputsPerScaleByte * Stride + output;
                        for (var n = 0; n < width; n++) step[n] = Wint2.GroupScale(scales[n], k) * superScale[n];
                    }
                    for (var b = 0; b < TileDepth / Wint2.InputsPerByte; b++)
                    {
                        var line = new ReadOnlySpan<byte>(codes.Pointer + (k / Wint2.InputsPerByte + b) * Stride + output, width);
                        Wint2.Decode(line, codeScale, codeZeroPoint, step, new Span<float>(tile + b * Wint2.InputsPerByte * TileWidth, Wint2.InputsPerByte * TileWidth), TileWidth);
                    }
                    TileTranspose.Write(tile, TileWidth, width, TileDepth, target + r * Columns + k, Columns);
                }
            }
        }
    }

    // NaN would become a word like any other, so that the damage would not show in the weights.
    private static void ReadFinite(StoredTensor tensor, long output, Span<float> values)
    {
        tensor.Read(output, values);
        if (ContainsNonFinite(values)) throw new InvalidDataException($"{tensor.File}: tensor {tensor.Name} holds NaN or infinity among values {output} to {output + values.Length - 1}; weights must be finite. Download the file again.");
    }
}
