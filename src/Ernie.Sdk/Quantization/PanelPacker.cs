using System.Runtime.InteropServices;

namespace Ernie.Sdk.Quantization;

/// <summary>Turns quantised rows into panels (<see cref="PanelLayout"/>) and back. Rows that a panel lacks are written as zero weights.</summary>
internal static class PanelPacker
{
    /// <summary>Packs up to 16 rows of int8 or int4 weights into one panel.</summary>
    /// <param name="layout">The matrix' layout; group scales.</param>
    /// <param name="codes">[rows, columns] q, in -128..127 or -8..7.</param>
    /// <param name="scales">[rows, groups] the scales, exactly representable in the panel's scale type: fp16, or float where the group is the row.</param>
    /// <param name="panel">Receives <see cref="PanelLayout.PanelBytes"/> bytes.</param>
    public static void Pack(in PanelLayout layout, ReadOnlySpan<sbyte> codes, ReadOnlySpan<float> scales, Span<byte> panel)
    {
        var columns = (int)layout.Columns;
        var groups = (int)layout.GroupCount;
        var rows = codes.Length / columns;
        if (rows is < 1 or > PanelLayout.Rows || codes.Length != rows * columns || scales.Length != rows * groups || panel.Length != layout.PanelBytes)
            throw new ArgumentException($"A panel of {layout.Format} takes 1 to {PanelLayout.Rows} rows of {columns} codes and {groups} scales, and {layout.PanelBytes} bytes.");
        Clear(layout, panel);
        for (var row = 0; row < rows; row++) PackRow(layout, codes.Slice(row * columns, columns), scales.Slice(row * groups, groups), row, panel);
    }

    /// <summary>Makes every weight of an int8 or int4 panel zero, padding included.</summary>
    public static void Clear(in PanelLayout layout, Span<byte> panel)
    {
        if (layout.Format.Kind is not (WeightKind.Int8 or WeightKind.Int4)) throw new ArgumentException($"{layout.Format} has no integer codes.", nameof(layout));
        panel.Clear();
        panel[..(int)layout.CodeBytes].Fill(layout.Format.Kind == WeightKind.Int4 ? (byte)0x88 : (byte)0x80);
    }

    /// <summary>Puts one row of int8 or int4 weights into a panel that has been cleared.</summary>
    /// <param name="layout">The matrix' layout.</param>
    /// <param name="codes">[columns]</param>
    /// <param name="scales">[groups]</param>
    /// <param name="row">Row of the panel.</param>
    /// <param name="panel">The panel.</param>
    public static void PackRow(in PanelLayout layout, ReadOnlySpan<sbyte> codes, ReadOnlySpan<float> scales, int row, Span<byte> panel)
    {
        if (layout.Format.Kind == WeightKind.Int4) PackRow4(codes, row, panel);
        else PackRow8(codes, row, panel);
        for (var group = 0; group < scales.Length; group++)
        {
            var offset = (int)layout.Scale(row, group);
            if (layout.Format.Group == 0) MemoryMarshal.Write(panel[offset..], scales[group]);
            else MemoryMarshal.Write(panel[offset..], (Half)scales[group]);
        }
    }

    /// <summary>Packs up to 16 outputs of WINT2 weights into one panel.</summary>
    /// <param name="layout">The matrix' layout; int2.</param>
    /// <param name="stride">Outputs from one line of <paramref name="codes"/> and <paramref name="groupScales"/> to the next.</param>
    /// <param name="codes">[columns / 4, stride], starting at the first output.</param>
    /// <param name="groupScales">[columns / 128, stride], likewise.</param>
    /// <param name="codeScales">[rows]</param>
    /// <param name="codeZeroPoints">[rows]</param>
    /// <param name="superScales">[rows] widened from bfloat16.</param>
    /// <param name="panel">Receives <see cref="PanelLayout.PanelBytes"/> bytes.</param>
    public static void PackWint2(in PanelLayout layout, int stride, ReadOnlySpan<byte> codes, ReadOnlySpan<byte> groupScales,
        ReadOnlySpan<float> codeScales, ReadOnlySpan<float> codeZeroPoints, ReadOnlySpan<float> superScales, Span<byte> panel)
    {
        var rows = superScales.Length;
        if (layout.Format.Kind != WeightKind.Int2 || rows is < 1 or > PanelLayout.Rows || codeScales.Length != rows || codeZeroPoints.Length != rows || panel.Length != layout.PanelBytes)
            throw new ArgumentException($"A panel of int2 takes 1 to {PanelLayout.Rows} rows and {layout.PanelBytes} bytes.");
        panel.Clear();
        for (var i = 0; i < layout.Columns / Wint2.InputsPerByte; i++)
            codes.Slice(i * stride, rows).CopyTo(panel[(i * PanelLayout.Rows)..]);
        for (var i = 0; i < layout.Columns / Wint2.InputsPerScaleByte; i++)
            groupScales.Slice(i * stride, rows).CopyTo(panel[((int)layout.ScaleOffset + i * PanelLayout.Rows)..]);
        var code = MemoryMarshal.Cast<byte, float>(panel[(int)layout.CodeScaleOffset..]);
        // Missing rows repeat the first one's code, so that a panel of one code stays one; their super scale is zero.
        code[..PanelLayout.Rows].Fill(codeScales[0]);
        code.Slice(PanelLayout.Rows, PanelLayout.Rows).Fill(codeZeroPoints[0]);
        codeScales.CopyTo(code);
        codeZeroPoints.CopyTo(code[PanelLayout.Rows..]);
        superScales.CopyTo(MemoryMarshal.Cast<byte, float>(panel[(int)layout.SuperScaleOffset..]));
    }

    /// <summary>Widens one row of a panel to float: what the kernels compute with.</summary>
    public static void Unpack(in PanelLayout layout, ReadOnlySpan<byte> panel, int row, Span<float> destination)
    {
        for (var k = 0; k < (int)layout.Columns; k++) destination[k] = Element(layout, panel, row, k);
    }

    /// <summary>One weight of a panel.</summary>
    public static float Element(in PanelLayout layout, ReadOnlySpan<byte> panel, int row, int column) =>
        Code(layout, panel, row, column) * Scale(layout, panel, row, column);

    /// <summary>The integer of one weight: q, or v of WINT2.</summary>
    public static int Code(in PanelLayout layout, ReadOnlySpan<byte> panel, int row, int column)
    {
        switch (layout.Format.Kind)
        {
            case WeightKind.Int8:
                return panel[(int)PanelLayout.Code8(row, column)] - 128;
            case WeightKind.Int4:
                var pair = panel[(int)PanelLayout.Code4(row, column)];
                return (PanelLayout.IsHighNibble(column) ? pair >> 4 : pair & 15) - 8;
            default:
                var code = MemoryMarshal.Cast<byte, float>(panel[(int)layout.CodeScaleOffset..]);
                var word = Wint2.Word(panel[(int)PanelLayout.Code2(row, column)], code[row], code[PanelLayout.Rows + row]);
                return Wint2.Value(word, column % Wint2.InputsPerByte);
        }
    }

    /// <summary>The float that one weight's integer is multiplied by.</summary>
    public static float Scale(in PanelLayout layout, ReadOnlySpan<byte> panel, int row, int column)
    {
        if (layout.Format.Kind == WeightKind.Int2)
        {
            var scales = panel[(int)layout.Scale(row, column / Wint2.InputsPerScaleByte)];
            return Wint2.GroupScale(scales, column) * MemoryMarshal.Read<float>(panel[((int)layout.SuperScaleOffset + row * sizeof(float))..]);
        }
        var offset = (int)layout.Scale(row, column / layout.GroupColumns);
        return layout.Format.Group == 0 ? MemoryMarshal.Read<float>(panel[offset..]) : (float)MemoryMarshal.Read<Half>(panel[offset..]);
    }

    private static void PackRow8(ReadOnlySpan<sbyte> codes, int row, Span<byte> panel)
    {
        var k = 0;
        // Four neighbours at a time: q + 128 is q with its top bit turned.
        for (; k <= codes.Length - 4; k += 4)
            MemoryMarshal.Write(panel[(int)PanelLayout.Code8(row, k)..], MemoryMarshal.Read<uint>(MemoryMarshal.AsBytes(codes[k..])) ^ 0x80808080u);
        for (; k < codes.Length; k++) panel[(int)PanelLayout.Code8(row, k)] = (byte)(codes[k] + 128);
    }

    private static void PackRow4(ReadOnlySpan<sbyte> codes, int row, Span<byte> panel)
    {
        var k = 0;
        // Eight neighbours at a time: q + 8 is the low half of q with its top bit turned.
        for (; k <= codes.Length - 8; k += 8)
        {
            var nibbles = (MemoryMarshal.Read<ulong>(MemoryMarshal.AsBytes(codes[k..])) & 0x0F0F0F0F0F0F0F0Ful) ^ 0x0808080808080808ul;
            MemoryMarshal.Write(panel[(int)PanelLayout.Code4(row, k)..], (uint)nibbles | (uint)(nibbles >> 32) << 4);
        }
        for (; k < codes.Length; k++)
        {
            var nibble = codes[k] + 8;
            ref var pair = ref panel[(int)PanelLayout.Code4(row, k)];
            pair = (byte)(PanelLayout.IsHighNibble(k) ? pair & 0x0F | nibble << 4 : pair & 0xF0 | nibble);
        }
    }
}
