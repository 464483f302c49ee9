using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// How many prompt tokens a step takes. Alone, a prompt gets the largest chunk. Beside decoding sequences a step may last <see cref="Stretch"/> times a pure decode step, by what recent steps took,
/// or one block: who reads an answer should hardly notice that another prompt came in. No result depends on it.
/// </summary>
internal sealed class ChunkBudget(int maxTokens)
{
    public const double Stretch = 2.5;
    private const double Weight = 0.25;
    private double _decodeSeconds;
    private double _secondsPerToken;

    /// <param name="decoding">Sequences that decode in the step.</param>
    public int Tokens(int decoding)
    {
        if (decoding == 0) return maxTokens;
        // Until both kinds of step have been seen, one block.
        if (_decodeSeconds == 0 || _secondsPerToken == 0) return KvBlockLayout.BlockSize;
        var tokens = (Stretch - 1) * _decodeSeconds / _secondsPerToken;
        return (int)Math.Clamp(Math.Floor(tokens / KvBlockLayout.BlockSize) * KvBlockLayout.BlockSize, KvBlockLayout.BlockSize, maxTokens);
    }

    /// <summary>Takes note of a step.</summary>
    public void Observe(int decoding, int prefillTokens, TimeSpan elapsed)
    {
        if (prefillTokens == 0)
        {
            if (decoding > 0) Average(ref _decodeSeconds, elapsed.TotalSeconds);
            return;
        }
        var seconds = elapsed.TotalSeconds - (decoding > 0 ? _decodeSeconds : 0);
        if (seconds > 0) Average(ref _secondsPerToken, seconds / prefillTokens);
    }

    private static void Average(ref double average, double value) => average = average == 0 ? value : average + Weight * (value - average);
}
