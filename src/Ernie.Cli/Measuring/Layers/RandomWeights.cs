using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>Random weights of a stack of matrices in one format, as our kernels read them and, for int8 and int4, as ONNX Runtime's operators do.</summary>
internal sealed unsafe class RandomWeights : IDisposable
{
    private readonly NativeMemoryBlock _data;

    /// <param name="format">Byte format.</param>
    /// <param name="sections">Matrices.</param>
    /// <param name="rows">Rows of each.</param>
    /// <param name="columns">Columns.</param>
    /// <param name="seed">Of the weights; they are about uniform, with the variance that keeps activations at their size.</param>
    /// <param name="runner">Threads that fill them.</param>
    /// <param name="ownCodes">int2: every output has a code of its own, as published files have, instead of the one that this library's encoder uses.</param>
    /// <param name="onRow">int8 and int4: told the section, the row in it, its codes and scales; on any thread.</param>
    public RandomWeights(WeightFormat format, int sections, int rows, int columns, ulong seed, IParallelRunner runner, bool ownCodes = false, RowReader? onRow = null)
    {
        (Format, Sections, Rows, Columns) = (format, sections, rows, columns);
        _data = new NativeMemoryBlock((nint)format.Bytes(sections, rows, columns));
        var scale = MathF.Sqrt(3f / columns);
        if (format == WeightFormat.Float32) _data.FillFloat(seed, scale, runner);
        else if (format == WeightFormat.BFloat16) _data.FillBFloat16(seed, scale, runner);
        else FillPanels(seed, scale, runner, ownCodes, onRow);
    }

    public delegate void RowReader(int section, int row, ReadOnlySpan<sbyte> codes, ReadOnlySpan<float> scales);

    public WeightFormat Format { get; }
    public int Sections { get; }
    public int Rows { get; }
    public int Columns { get; }
    public long Bytes => _data.Bytes;

    /// <summary>All sections as one matrix.</summary>
    public PackedMatrix All => new(Format, _data.Pointer, (nint)Sections * Rows, Columns, Format.IsPacked ? Rows : (nint)Sections * Rows);

    /// <summary>One section.</summary>
    public PackedMatrix Section(int index) => Part(index, Sections);

    /// <summary>One of some parts of equally many sections.</summary>
    public PackedMatrix Part(int index, int parts) => All.Slice((nint)index * (Sections / parts) * Rows, (nint)(Sections / parts) * Rows);

    public void Dispose() => _data.Dispose();

    private void FillPanels(ulong seed, float scale, IParallelRunner runner, bool ownCodes, RowReader? onRow)
    {
        var layout = new PanelLayout(Format, Columns);
        var panels = (int)PanelLayout.PanelCount(Rows);
        runner.For(Sections * panels, item =>
        {
            var random = new RandomBits(seed << 40 | (uint)item);
            var (section, first) = (item / panels, item % panels * PanelLayout.Rows);
            var rows = Math.Min(PanelLayout.Rows, Rows - first);
            var panel = new Span<byte>(_data.Pointer + (nint)item * (nint)layout.PanelBytes, (int)layout.PanelBytes);
            if (layout.Format.Kind == WeightKind.Int2) FillWint2(ref random, layout, rows, scale, ownCodes, panel);
            else FillIntegers(ref random, layout, section, first, rows, scale, onRow, panel);
        });
    }

    private void FillIntegers(ref RandomBits random, in PanelLayout layout, int section, int first, int rows, float scale, RowReader? onRow, Span<byte> panel)
    {
        var bits = layout.Format.Kind == WeightKind.Int4 ? 4 : 8;
        var half = 1 << (bits - 1);
        var groups = (int)layout.GroupCount;
        var codes = new sbyte[rows * Columns];
        var scales = new float[rows * groups];
        for (var i = 0; i < codes.Length;)
        {
            var word = random.Next();
            for (var b = 0; b < 8 && i < codes.Length; b++, word >>= 8) codes[i++] = (sbyte)((int)(word & (ulong)(2 * half - 1)) - half);
        }
        for (var i = 0; i < scales.Length; i++) scales[i] = (float)(Half)(scale / half * (0.75f + (random.Next() >> 40) / (float)(1 << 25)));
        PanelPacker.Pack(layout, codes, scales, panel);
        if (onRow is null) return;
        for (var row = 0; row < rows; row++) onRow(section, first + row, codes.AsSpan(row * Columns, Columns), scales.AsSpan(row * groups, groups));
    }

    private void FillWint2(ref RandomBits random, in PanelLayout layout, int rows, float scale, bool ownCodes, Span<byte> panel)
    {
        var codes = new byte[Columns / Wint2.InputsPerByte * rows];
        var groups = new byte[Columns / Wint2.InputsPerScaleByte * rows];
        for (var i = 0; i < codes.Length; i++) codes[i] = (byte)(random.Next() >> 32);
        for (var i = 0; i < groups.Length; i++) groups[i] = (byte)(random.Next() >> 32);
        var (codeScales, zeroPoints, superScales) = (new float[rows], new float[rows], new float[rows]);
        for (var row = 0; row < rows; row++)
        {
            (codeScales[row], zeroPoints[row]) = ownCodes ? (96 + (random.Next() >> 59), random.Next() >> 53) : (121f, 800f);
            superScales[row] = BFloat16.ToSingle(BFloat16.FromSingle(scale / 400));
        }
        PanelPacker.PackWint2(layout, rows, codes, groups, codeScales, zeroPoints, superScales, panel);
    }
}
