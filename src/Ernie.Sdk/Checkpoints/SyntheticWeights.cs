using System.Numerics;
using System.Runtime.InteropServices;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// Seeded random weights of any shape, for trying sizes and speeds without a checkpoint. Matrices are uniform with a variance of 1 / columns, so that activations keep their size; norms are near one.
/// </summary>
internal sealed class SyntheticWeights(ErnieConfig config, int seed) : IWeightSource
{
    public ErnieConfig Config => config;

    public CheckpointTensor Tensor(string canonicalName)
    {
        var (rows, columns) = TensorShapes.Of(config, canonicalName);
        var (centre, amplitude) = canonicalName.EndsWith("norm.weight", StringComparison.Ordinal) ? (1f, 0.1f)
            : canonicalName.EndsWith("e_score_correction_bias", StringComparison.Ordinal) ? (0f, 0.01f)
            : canonicalName == TensorNames.Embedding ? (0f, 1f)
            : (0f, MathF.Sqrt(3f / columns));
        return new RandomTensor(Hash(canonicalName, seed), centre, amplitude) { Name = canonicalName, File = "(random)", Rows = rows, Columns = columns, Type = StoredType.Float32 };
    }

    private static uint Hash(string name, int seed)
    {
        var hash = 2166136261u ^ (uint)seed;
        foreach (var c in name) hash = (hash ^ c) * 16777619u;
        return hash;
    }

    private sealed class RandomTensor(uint seed, float centre, float amplitude) : CheckpointTensor
    {
        /// <summary>A value is a hash of its index, so rows can be read in any order; integer vectors keep this near the speed of memory.</summary>
        public override void Read(long firstRow, Span<float> destination)
        {
            var start = unchecked(seed + (uint)(firstRow * Columns) * 0x9E3779B9u);
            var vectors = MemoryMarshal.Cast<float, Vector<float>>(destination);
            var lane = Vector<uint>.Indices * 0x9E3779B9u;
            var scale = amplitude / (1 << 30);
            for (var i = 0; i < vectors.Length; i++)
            {
                var x = lane + new Vector<uint>(unchecked(start + (uint)(i * Vector<uint>.Count) * 0x9E3779B9u));
                vectors[i] = Vector.ConvertToSingle(Vector.AsVectorInt32(Mix(x)) >> 1) * scale + new Vector<float>(centre);
            }
            for (var i = vectors.Length * Vector<float>.Count; i < destination.Length; i++)
            {
                var x = Mix(new Vector<uint>(unchecked(start + (uint)i * 0x9E3779B9u)))[0];
                destination[i] = ((int)x >> 1) * scale + centre;
            }
        }

        /// <summary>Any packed format: integers are drawn directly, which is much faster than quantising values, and scales keep the values' range.</summary>
        public override bool Holds(WeightFormat format) => format.IsPacked;

        public override void ReadPanels(in PanelLayout layout, long firstRow, int rows, int at, Span<byte> panels)
        {
            // A panel that begins in another tensor is drawn with it.
            var end = (at + rows + PanelLayout.Rows - 1) / PanelLayout.Rows;
            for (var p = (at + PanelLayout.Rows - 1) / PanelLayout.Rows; p < end; p++)
            {
                var panel = panels.Slice((int)(p * layout.PanelBytes), (int)layout.PanelBytes);
                var present = panels.Length / (int)layout.PanelBytes - 1 > p ? PanelLayout.Rows : at + rows - p * PanelLayout.Rows;
                Draw(layout, firstRow + p * PanelLayout.Rows - at, present, panel);
            }
        }

        private void Draw(in PanelLayout layout, long row, int present, Span<byte> panel)
        {
            panel.Clear();
            var codes = MemoryMarshal.Cast<byte, Vector<uint>>(panel[..(int)layout.CodeBytes]);
            var start = unchecked(seed + (uint)(row * Columns) * 0x9E3779B9u);
            var lane = Vector<uint>.Indices * 0x9E3779B9u;
            for (var i = 0; i < codes.Length; i++) codes[i] = Mix(lane + new Vector<uint>(unchecked(start + (uint)(i * Vector<uint>.Count) * 0x9E3779B9u)));
            if (layout.Format.Kind == WeightKind.Int2) SetWint2Scales(layout, start, present, panel);
            else SetScales(layout, present, panel);
        }

        /// <summary>Nibbles of 0 become 8, which stands for the weight zero.</summary>
        private static Vector<byte> WithoutZeroNibbles(Vector<byte> pairs)
        {
            var low = Vector.Equals(pairs & new Vector<byte>(0x0F), Vector<byte>.Zero) & new Vector<byte>(0x08);
            var high = Vector.Equals(pairs & new Vector<byte>(0xF0), Vector<byte>.Zero) & new Vector<byte>(0x80);
            return pairs | low | high;
        }

        private void SetScales(in PanelLayout layout, int present, Span<byte> panel)
        {
            var isInt4 = layout.Format.Kind == WeightKind.Int4;
            var bytes = MemoryMarshal.Cast<byte, Vector<byte>>(panel[..(int)layout.CodeBytes]);
            // 0 stands for -128, which int8 has not. In int4 it stands for -8, which would give the weights a mean: it adds up over the columns until all tokens look alike and choose the same experts.
            for (var i = 0; i < bytes.Length; i++) bytes[i] = isInt4 ? WithoutZeroNibbles(bytes[i]) : Vector.Max(bytes[i], Vector<byte>.One);
            for (var row = 0; row < PanelLayout.Rows; row++)
            {
                for (var column = row < present ? (int)Columns : 0; column < layout.BlockCount * PanelLayout.BlockColumns; column++)
                {
                    ref var code = ref panel[(int)(isInt4 ? PanelLayout.Code4(row, column) : PanelLayout.Code8(row, column))];
                    code = !isInt4 ? (byte)0x80 : PanelLayout.IsHighNibble(column) ? (byte)(code & 0x0F | 0x80) : (byte)(code & 0xF0 | 0x08);
                }
                if (row >= present) continue;
                var scale = amplitude / (isInt4 ? 8 : 127);
                for (var group = 0; group < layout.GroupCount; group++)
                {
                    var target = panel[(int)layout.Scale(row, group)..];
                    if (layout.Format.Group == 0) MemoryMarshal.Write(target, Kernels.BFloat16.ToSingle(WeightPacker.ToBFloat16(scale)));
                    else MemoryMarshal.Write(target, (Half)scale);
                }
            }
        }

        /// <summary>One code for all, as the exporter's own encoder chooses it; super scales of zero in rows that are padding.</summary>
        private void SetWint2Scales(in PanelLayout layout, uint start, int present, Span<byte> panel)
        {
            // Words spread over all 15 bits.
            const float CodeScale = 32767f / 255;
            var groups = panel[(int)layout.ScaleOffset..(int)layout.CodeScaleOffset];
            for (var i = 0; i < groups.Length; i++) groups[i] = (byte)(Mix(new Vector<uint>(unchecked(~start + (uint)i * 0x9E3779B9u)))[0] | 0x88);
            MemoryMarshal.Cast<byte, float>(panel[(int)layout.CodeScaleOffset..])[..PanelLayout.Rows].Fill(CodeScale);
            var super = Kernels.BFloat16.ToSingle(WeightPacker.ToBFloat16(amplitude / (12 * 32)));
            MemoryMarshal.Cast<byte, float>(panel[(int)layout.SuperScaleOffset..])[..present].Fill(super);
        }

        private static Vector<uint> Mix(Vector<uint> x)
        {
            x ^= x >>> 16;
            x *= 0x7feb352du;
            x ^= x >>> 15;
            x *= 0x846ca68bu;
            return x ^ (x >>> 16);
        }
    }
}
