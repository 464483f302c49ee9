using System.Diagnostics;
using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Peers;

/// <summary>This library, through its public interface; only the meter on its kernels is not public.</summary>
internal sealed class ErnieEngine : Engine
{
    private readonly ErnieModel _model;
    private readonly MeteredKernels _meter;

    private ErnieEngine(ErnieModel model, MeteredKernels meter) => (_model, _meter) = (model, meter);

    public static async Task<Engine> LoadAsync(string folder, int threads)
    {
        var meter = new MeteredKernels(KernelRegistry.Choose());
        return new ErnieEngine(await ErnieModel.LoadAsync(folder, new ErnieModelOptions { Threads = threads, Kernels = meter }).ConfigureAwait(false), meter);
    }

    public override string Name => "Ernie.Sdk";
    public override int VocabularySize => _model.VocabularySize;

    public override async Task<double> PrefillAsync(IReadOnlyList<int> prompt)
    {
        var start = Stopwatch.GetTimestamp();
        await foreach (var _ in _model.GenerateAsync(prompt, Options(1)).ConfigureAwait(false))
        {
        }
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    public override async Task<(double Seconds, double BytesOfStep)> DecodeAsync(IReadOnlyList<int> prompt, int tokens)
    {
        _meter.Take();
        long first = 0, last = 0;
        await foreach (var _ in _model.GenerateAsync(prompt, Options(tokens + 1)).ConfigureAwait(false))
        {
            last = Stopwatch.GetTimestamp();
            if (first == 0) first = last;
        }
        var steps = _meter.Take().Steps.Where(static s => s.IsDecode).ToArray();
        return (Stopwatch.GetElapsedTime(first, last).TotalSeconds, steps.Average(static s => (double)s.WeightBytes + s.CacheBytes));
    }

    public override async ValueTask DisposeAsync()
    {
        await _model.DisposeAsync().ConfigureAwait(false);
        _meter.Dispose();
    }

    /// <summary>Random weights may choose an end token at any time; the presence penalty keeps them from choosing one token for ever, with always the same experts.</summary>
    private static ErnieGenerationOptions Options(int tokens) =>
        new() { MaxTokens = tokens, IgnoreStopTokens = true, Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 2 };
}
