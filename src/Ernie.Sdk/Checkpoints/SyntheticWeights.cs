using System.Numerics;
using System.Runtime.InteropServices;

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
