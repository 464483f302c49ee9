using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Cases;

internal static unsafe class RandomTensor
{
    /// <summary>Uniform in [-scale / 2, scale / 2).</summary>
    public static float[] Floats(Random random, int count, double scale)
    {
        var values = new float[count];
        for (var i = 0; i < count; i++) values[i] = (float)((random.NextDouble() - 0.5) * scale);
        return values;
    }

    /// <summary>
    /// Weights [sections · sectionRows, columns] of about uniform distribution in [-scale / 2, scale / 2), in any format; packed ones with all codes and irregular scales.
    /// </summary>
    public static NativeArray<byte> Weight(Random random, int sections, int sectionRows, int columns, WeightFormat format, double scale)
    {
        var bytes = new NativeArray<byte>((nint)format.Bytes(sections, sectionRows, columns));
        if (!format.IsPacked)
        {
            for (nint i = 0; i < (nint)sections * sectionRows * columns; i++)
            {
                var value = (float)((random.NextDouble() - 0.5) * scale);
                if (format == WeightFormat.Float32) ((float*)bytes.Pointer)[i] = value;
                else ((ushort*)bytes.Pointer)[i] = BFloat16.FromSingle(value);
            }
            return bytes;
        }
        var layout = new PanelLayout(format, columns);
        var panel = bytes.Pointer;
        for (var section = 0; section < sections; section++)
        {
            for (var first = 0; first < sectionRows; first += PanelLayout.Rows, panel += layout.PanelBytes)
                Panel(random, layout, Math.Min(PanelLayout.Rows, sectionRows - first), scale, new Span<byte>(panel, (int)layout.PanelBytes));
        }
        return bytes;
    }

    private static void Panel(Random random, in PanelLayout layout, int rows, double scale, Span<byte> panel)
    {
        if (layout.Format.Kind == WeightKind.Int2)
        {
            var codes = new byte[layout.Columns / Wint2.InputsPerByte * rows];
            var groups = new byte[layout.Columns / Wint2.InputsPerScaleByte * rows];
            random.NextBytes(codes);
            random.NextBytes(groups);
            // One panel in three has a code of its own in every column, as published files do.
            var common = random.Next(3) != 0;
            PanelPacker.PackWint2(layout, rows, codes, groups,
                [.. Enumerable.Range(0, rows).Select(_ => common ? 121f : 96 + 32 * random.NextSingle())],
                [.. Enumerable.Range(0, rows).Select(_ => common ? 800f : 2000 * random.NextSingle())],
                [.. Enumerable.Range(0, rows).Select(_ => BFloat16.ToSingle(BFloat16.FromSingle((float)(scale / 400 * (0.5 + random.NextDouble())))))], panel);
            return;
        }
        var integers = new sbyte[layout.Columns * rows];
        var largest = layout.Format.Kind == WeightKind.Int4 ? 8 : 128;
        for (var i = 0; i < integers.Length; i++) integers[i] = (sbyte)random.Next(-largest, largest);
        var scales = new float[layout.GroupCount * rows];
        for (var i = 0; i < scales.Length; i++) scales[i] = (float)(Half)(scale / 2 / largest * (0.5 + random.NextDouble()));
        PanelPacker.Pack(layout, integers, scales, panel);
    }
}
