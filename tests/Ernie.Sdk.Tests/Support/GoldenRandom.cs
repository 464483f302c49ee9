using System.Text;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Portable numbers from a name: FNV-1a of the name, then splitmix64 of hash + index, as the golden data defines it.</summary>
internal sealed class GoldenRandom
{
    private readonly ulong _hash;

    public GoldenRandom(string name)
    {
        _hash = 0xcbf29ce484222325;
        foreach (var b in Encoding.UTF8.GetBytes(name)) _hash = (_hash ^ b) * 0x100000001b3;
    }

    public ulong Bits(long index)
    {
        unchecked
        {
            var x = _hash + (ulong)index + 0x9E3779B97F4A7C15;
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
            return x ^ (x >> 31);
        }
    }

    /// <summary>r in [-0.5, 0.5), exact in float and double.</summary>
    public double Value(long index) => (Bits(index) >> 40) / 16777216.0 - 0.5;
}
