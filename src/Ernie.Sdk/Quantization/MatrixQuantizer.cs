using System.Buffers;

namespace Ernie.Sdk.Quantization;

/// <summary>Turns float weights into panels. Thread-safe; the same weights give the same bytes on every machine.</summary>
internal static class MatrixQuantizer
{
    /// <summary>Quantises rows that begin a panel.</summary>
    /// <param name="format">A packed format.</param>
    /// <param name="name">Canonical name of the checkpoint's weight that the first row belongs to, for messages.</param>
    /// <param name="rows">[rows, columns] finite: a run of 16·n rows of a matrix or its end.</param>
    /// <param name="metric">What rounding errors cost, of the matrix' inputs.</param>
    /// <param name="panels">Receives the panels.</param>
    /// <exception cref="InvalidDataException">The weights are too large for the format.</exception>
    public static void Quantize(WeightFormat format, string name, ReadOnlySpan<float> rows, ErrorMetric metric, Span<byte> panels) =>
        Quantize(format, name, rows, metric, format.Kind == WeightKind.Int2 ? new Wint2Encoder(metric) : null, panels);

    /// <summary>As above, with the tables of int2 made once for many calls; <paramref name="encoder"/> is null for other formats.</summary>
    public static void Quantize(WeightFormat format, string name, ReadOnlySpan<float> rows, ErrorMetric metric, Wint2Encoder? encoder, Span<byte> panels)
    {
        var columns = metric.Columns;
        var layout = new PanelLayout(format, columns);
        var panelBytes = (int)layout.PanelBytes;
        for (var first = 0; first < rows.Length / columns; first += PanelLayout.Rows)
        {
            var count = Math.Min(PanelLayout.Rows, rows.Length / columns - first);
            Panel(layout, name, rows.Slice(first * columns, count * columns), metric, encoder, panels.Slice(first / PanelLayout.Rows * panelBytes, panelBytes));
        }
    }

    private static void Panel(in PanelLayout layout, string name, ReadOnlySpan<float> rows, ErrorMetric metric, Wint2Encoder? encoder, Span<byte> panel)
    {
        var (format, columns) = (layout.Format, metric.Columns);
        var count = rows.Length / columns;
        if (encoder is not null)
        {
            var encoded = encoder.Encode(rows);
            Span<float> codeScales = stackalloc float[count], zeroPoints = stackalloc float[count];
            codeScales.Fill(Wint2Encoder.CodeScale);
            zeroPoints.Fill(Wint2Encoder.CodeZeroPoint);
            PanelPacker.PackWint2(layout, Wint2Rows.Stride, encoded.Codes, encoded.GroupScales, codeScales, zeroPoints, encoded.SuperScales.AsSpan(0, count), panel);
            return;
        }
        var rented = ArrayPool<sbyte>.Shared.Rent(rows.Length);
        var codes = rented.AsSpan(0, rows.Length);
        var scales = new float[count * (int)layout.GroupCount];
        if (format.Group == 0)
        {
            for (var r = 0; r < count; r++)
                scales[r] = Kernels.BFloat16.ToSingle(ChannelInt.Quantise(rows.Slice(r * columns, columns), format.Kind == WeightKind.Int8 ? ChannelInt.Largest8 : ChannelInt.Largest4, codes.Slice(r * columns, columns)));
        }
        else
        {
            var peak = 0f;
            foreach (var weight in rows) peak = Math.Max(peak, Math.Abs(weight));
            if (!(peak <= (float)Half.MaxValue * (format.Kind == WeightKind.Int8 ? ChannelInt.Largest8 : ChannelInt.Largest4)))
                throw new InvalidDataException($"{name}: weights as large as {peak} do not fit {format}, whose scales are fp16. Export to bf16.");
            GroupInt.Quantize(format, rows, metric, codes, scales);
        }
        PanelPacker.Pack(layout, codes, scales, panel);
        ArrayPool<sbyte>.Shared.Return(rented);
    }
}
