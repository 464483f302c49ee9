using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>One implementation of a layer, with weights of its own. All of one benchmark read the same inputs.</summary>
internal abstract class Contestant : IDisposable
{
    public abstract string Name { get; }
    public abstract WeightFormat Format { get; }
    /// <summary>Bytes of all weights that calls rotate over.</summary>
    public abstract long RotatingBytes { get; }
    public bool IsOurs => this is OurLinear or OurExperts;

    /// <summary>Runs the layer <paramref name="turns"/> times on tokens that differ from turn to turn, or weights that do.</summary>
    public abstract void Run(int tokens, int turns);

    /// <summary>What <see cref="Run"/> has read and computed in one turn of the last call.</summary>
    public abstract LayerTraffic Traffic(int tokens, int turns);

    /// <summary>Compares the last token of a run with the reference; returns the largest difference over the largest output.</summary>
    public abstract double Check(int tokens);

    public abstract void Dispose();

    /// <exception cref="InvalidOperationException">The difference is larger than <paramref name="limit"/>: a benchmark of wrong numbers is worth nothing.</exception>
    protected double Compare(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, double limit)
    {
        double largest = 0, difference = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            largest = Math.Max(largest, Math.Abs(expected[i]));
            // A NaN stays the largest difference.
            var d = Math.Abs((double)expected[i] - actual[i]);
            if (!(d <= difference)) difference = d;
        }
        if (!(difference <= limit * largest)) throw new InvalidOperationException($"{Name} {Format}: differs from the reference by {difference:G3}, where the largest output is {largest:G3}.");
        return difference / largest;
    }
}

/// <param name="Bytes">Weights of one turn.</param>
/// <param name="Operations">Multiplications and additions of one turn.</param>
/// <param name="DistinctExperts">Experts that one turn reads.</param>
internal readonly record struct LayerTraffic(double Bytes, double Operations, double DistinctExperts);
