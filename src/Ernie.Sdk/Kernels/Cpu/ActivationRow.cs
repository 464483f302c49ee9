using System.Runtime.Intrinsics;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Quantised activations as panel kernels read them: one record a block of 32 inputs
//      codes    [32]  int8
//      scale          float
//      offset         float    first block of a group of the weight: -offset · Σ over the group's blocks, in order, of scale · Σ codes; elsewhere the block's own share
//  Math       QuantizedActivations; weights have unsigned codes, so a product is Σ w·x = Σ (w + offset)·x - offset·Σ x
//  Reference  Kernels/QuantizedActivations.cs
//  Tolerance  equal bits
internal static unsafe class ActivationRow
{
    public const int RecordBytes = 40;
    public const int ScaleOffset = 32;
    public const int CorrectionOffset = 36;

    public static nint Bytes(nint columns) => (columns + PanelLayout.BlockColumns - 1) / PanelLayout.BlockColumns * RecordBytes;

    /// <summary>One whole row for weights of this layout and code offset.</summary>
    public static void Quantize(float* x, in PanelLayout layout, int offset, byte* row)
    {
        QuantizeBlocks(x, (int)layout.Columns, offset, row);
        SumGroups(row, layout);
    }

    /// <summary>Blocks of <paramref name="count"/> values; what belongs to a group is left for <see cref="SumGroups"/>.</summary>
    public static void QuantizeBlocks(float* x, int count, int offset, byte* records)
    {
        for (; count >= PanelLayout.BlockColumns; count -= PanelLayout.BlockColumns, x += PanelLayout.BlockColumns, records += RecordBytes) Block(x, offset, records);
        if (count == 0) return;
        var padded = stackalloc float[PanelLayout.BlockColumns];
        for (var i = 0; i < PanelLayout.BlockColumns; i++) padded[i] = i < count ? x[i] : 0;
        Block(padded, offset, records);
    }

    /// <summary>Moves the offset's share of every block to its group's first block.</summary>
    public static void SumGroups(byte* row, in PanelLayout layout)
    {
        var perGroup = (int)(layout.GroupColumns / PanelLayout.BlockColumns);
        for (var block = 0; block < (int)layout.BlockCount; block += perGroup)
        {
            float sum = 0;
            for (var b = block; b < Math.Min(block + perGroup, (int)layout.BlockCount); b++) sum += *(float*)(row + b * RecordBytes + CorrectionOffset);
            *(float*)(row + block * RecordBytes + CorrectionOffset) = sum;
        }
    }

    private static void Block(float* x, int offset, byte* record)
    {
        Vector256<float> a = Vector256.Load(x), b = Vector256.Load(x + 8), c = Vector256.Load(x + 16), d = Vector256.Load(x + 24);
        // NaN for NaN and infinity, 0 otherwise.
        var poison = (a - a) + (b - b) + ((c - c) + (d - d));
        var max = Vector256.Max(Vector256.Max(Vector256.Abs(a), Vector256.Abs(b)), Vector256.Max(Vector256.Abs(c), Vector256.Abs(d)));
        var four = Vector128.Max(max.GetLower(), max.GetUpper());
        var largest = Math.Max(Math.Max(four[0], four[1]), Math.Max(four[2], four[3]));
        var (sum, scale) = (0, Vector256.EqualsAll(poison, Vector256<float>.Zero) ? 0 : float.NaN);
        if (scale == 0 && largest >= QuantizedActivations.Smallest)
        {
            var inverse = Vector256.Create(127 / largest);
            Vector256<int> i = Round(a * inverse), j = Round(b * inverse), k = Round(c * inverse), l = Round(d * inverse);
            Vector256.Narrow(Vector256.Narrow(i, j), Vector256.Narrow(k, l)).Store((sbyte*)record);
            sum = Vector256.Sum(i + j + (k + l));
            scale = largest * (1 / 127f);
        }
        else
        {
            new Span<byte>(record, PanelLayout.BlockColumns).Clear();
        }
        *(float*)(record + ScaleOffset) = scale;
        *(float*)(record + CorrectionOffset) = -offset * (scale * sum);

        static Vector256<int> Round(Vector256<float> value) => Vector256.ConvertToInt32Native(Vector256.Round(value));
    }
}
