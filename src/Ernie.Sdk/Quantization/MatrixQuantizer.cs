namespace Ernie.Sdk.Quantization;

/// <summary>Turns float weights into panels. Thread-safe; the same weights give the same bytes on every machine.</summary>
internal class MatrixQuantizer
{
    /// <summary>What the bytes depend on besides the weights: an interrupted export goes on only under the same.</summary>
    public virtual string Identity => "";

    /// <summary>Quantises rows that begin a panel.</summary>
    /// <param name="format">A packed format.</param>
    /// <param name="name">Canonical name of the checkpoint's weight that the first row belongs to; all rows have the same inputs as it.</param>
    /// <param name="rows">[rows, columns] finite: a run of 16·n rows of a matrix or its end, all of it in int2.</param>
    /// <param name="columns">Inputs.</param>
    /// <param name="panels">Receives the panels.</param>
    /// <exception cref="InvalidDataException">The weights are too large for the format.</exception>
    public virtual void Quantize(WeightFormat format, string name, ReadOnlySpan<float> rows, int columns, Span<byte> panels)
    {
        if (format.Kind == WeightKind.Int2)
            throw new NotSupportedException($"{name}: this version writes int2 only from checkpoints that hold it (-2Bits-Paddle). Export to int4 instead.");
        var layout = new PanelLayout(format, columns);
        var (panelBytes, groups, groupColumns) = ((int)layout.PanelBytes, (int)layout.GroupCount, (int)layout.GroupColumns);
        var codes = new sbyte[columns];
        var scales = new float[groups];
        for (var r = 0; r < rows.Length / columns; r++)
        {
            var row = rows.Slice(r * columns, columns);
            var panel = panels.Slice(r / PanelLayout.Rows * panelBytes, panelBytes);
            if (r % PanelLayout.Rows == 0) PanelPacker.Clear(layout, panel);
            if (format.Group == 0) scales[0] = Kernels.BFloat16.ToSingle(ChannelInt.Quantise(row, format.Kind == WeightKind.Int8 ? ChannelInt.Largest8 : ChannelInt.Largest4, codes));
            else
            {
                for (var group = 0; group < groups; group++)
                {
                    var first = group * groupColumns;
                    var weights = row.Slice(first, Math.Min(groupColumns, columns - first));
                    scales[group] = format.Kind == WeightKind.Int8 ? GroupInt.Quantize8(weights, codes.AsSpan(first)) : GroupInt.Quantize4(weights, codes.AsSpan(first));
                    if (!float.IsFinite(scales[group])) throw new InvalidDataException($"{name}: weights as large as {Peak(weights)} do not fit {format}, whose scales are fp16. Export to bf16.");
                }
            }
            PanelPacker.PackRow(layout, codes, scales, r % PanelLayout.Rows, panel);
        }
    }

    private static float Peak(ReadOnlySpan<float> weights)
    {
        var peak = 0f;
        foreach (var weight in weights) peak = Math.Max(peak, Math.Abs(weight));
        return peak;
    }
}
