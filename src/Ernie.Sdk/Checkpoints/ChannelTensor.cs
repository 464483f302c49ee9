using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored in WINT8 or WINT4, in the byte order of FastDeploy's GPU kernels: outputs of a stored matrix, which may hold further ones (fused projections) beside them.</summary>
internal sealed class ChannelTensor : CheckpointTensor
{
    /// <summary><see cref="FastDeployFormat.Wint8"/> or <see cref="FastDeployFormat.Wint4"/>.</summary>
    public required FastDeployFormat Format { get; init; }
    /// <summary>Integers of N stored outputs: int8 [N, K], or [N/2, K] for WINT4.</summary>
    public required StoredTensor Integers { get; init; }
    /// <summary>[N]</summary>
    public required StoredTensor Scales { get; init; }
    /// <summary>Stored output that is this weight's row 0.</summary>
    public required long FirstOutput { get; init; }

    public override WeightFormat? StoredFormat => Format == FastDeployFormat.Wint8 ? WeightFormat.Int8(0) : WeightFormat.Int4(0);

    public override void Read(long firstRow, Span<float> destination)
    {
        var columns = (int)Columns;
        Visit(firstRow, (int)CheckRange(firstRow, destination), destination, (r, integers, scale, target) => ChannelInt.Dequantise(integers, scale, target.Slice(r * columns, columns)));
    }

    public override void ReadPanels(in PanelLayout layout, long firstRow, int rows, int at, Span<byte> panels)
    {
        if (!Holds(layout.Format)) base.ReadPanels(layout, firstRow, rows, at, panels);
        var panelLayout = layout;
        Visit(firstRow, rows, panels, (r, integers, scale, target) =>
        {
            var panel = target.Slice((int)((at + r) / PanelLayout.Rows * panelLayout.PanelBytes), (int)panelLayout.PanelBytes);
            var row = (at + r) % PanelLayout.Rows;
            if (row == 0) PanelPacker.Clear(panelLayout, panel);
            if (!float.IsFinite(scale)) throw new InvalidDataException($"{Scales.File}: tensor {Scales.Name} holds {scale} at {FirstOutput + firstRow + r}; weights must be finite. Download the file again.");
            PanelPacker.PackRow(panelLayout, integers, [scale], row, panel);
        });
    }

    private delegate void RowVisitor<T>(int row, ReadOnlySpan<sbyte> integers, float scale, Span<T> target);

    /// <summary>Unpacks the integers of each row.</summary>
    private unsafe void Visit<T>(long firstRow, int rows, Span<T> target, RowVisitor<T> visit)
    {
        if (rows == 0) return;
        var columns = checked((int)Columns);
        var stripeBytes = checked(2 * columns);
        var perStripe = Format == FastDeployFormat.Wint8 ? GpuByteOrder.Outputs8 : GpuByteOrder.Outputs4;
        var scales = new float[rows];
        Scales.Read(FirstOutput + firstRow, scales);
        var integers = new sbyte[columns];
        using var mapped = Integers.Source!.Map(Integers.Entry);
        if (((FirstOutput + firstRow + rows - 1) / perStripe + 1) * stripeBytes > mapped.Length) throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        for (var r = 0; r < scales.Length; r++)
        {
            var output = FirstOutput + firstRow + r;
            var stripe = new ReadOnlySpan<byte>(mapped.Pointer + output / perStripe * stripeBytes, stripeBytes);
            var member = (int)(output % perStripe);
            if (Format == FastDeployFormat.Wint8) GpuByteOrder.Unpack8(stripe, member, integers);
            else GpuByteOrder.Unpack4(stripe, member, integers);
            visit(r, integers, scales[r], target);
        }
    }
}
