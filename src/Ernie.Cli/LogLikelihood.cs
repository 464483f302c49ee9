using System.Numerics.Tensors;

namespace Ernie.Cli;

/// <summary>Adds up how well logits predict a text. Log-softmax in double, whatever the logits' type, so that sums over long texts stay exact enough to compare.</summary>
internal sealed class LogLikelihood
{
    /// <summary>Doubles converted at a time: 16 KB, half of a first-level cache.</summary>
    private const int Chunk = 2048;
    private readonly double[] _chunk = new double[Chunk];

    /// <summary>Sum of -log p, in nats.</summary>
    public double Nll { get; private set; }
    /// <summary>Tokens that had the highest logit; of equal ones the first.</summary>
    public long Top1 { get; private set; }
    public long Tokens { get; private set; }

    /// <param name="logits">[vocabulary].</param>
    /// <param name="next">The token that follows in the text.</param>
    public void Add(ReadOnlySpan<float> logits, int next)
    {
        var best = TensorPrimitives.IndexOfMax(logits);
        double max = logits[best];
        double sum = 0;
        for (var start = 0; start < logits.Length; start += Chunk)
        {
            var part = logits.Slice(start, Math.Min(Chunk, logits.Length - start));
            var values = _chunk.AsSpan(0, part.Length);
            TensorPrimitives.ConvertTruncating(part, values);
            TensorPrimitives.Subtract(values, max, values);
            TensorPrimitives.Exp<double>(values, values);
            sum += TensorPrimitives.Sum<double>(values);
        }
        var nll = Math.Log(sum) + max - logits[next];
        if (!double.IsFinite(nll)) throw new InvalidDataException("the model gives logits that are not finite; check it with 'ernie verify'.");
        Nll += nll;
        Top1 += best == next ? 1 : 0;
        Tokens++;
    }

    public void Add(LogLikelihood other)
    {
        Nll += other.Nll;
        Top1 += other.Top1;
        Tokens += other.Tokens;
    }
}
