using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Engine;

/// <summary>Resolved, checked sampling options: what a request's options, the model's generation configuration and the defaults come to.</summary>
internal sealed record SamplingSettings
{
    public float Temperature { get; init; } = 1;
    public int TopK { get; init; }
    public float TopP { get; init; } = 1;
    public float MinP { get; init; }
    public float RepetitionPenalty { get; init; } = 1;
    public float FrequencyPenalty { get; init; }
    public float PresencePenalty { get; init; }
    /// <summary>Added to logits, by id.</summary>
    public KeyValuePair<int, float>[] Bias { get; init; } = [];
    public ulong Seed { get; init; }

    public static SamplingSettings Greedy { get; } = new() { Temperature = 0 };

    /// <summary>FastDeploy's thresholds: a temperature or top-p below them means the most likely token.</summary>
    public bool IsGreedy => Temperature < 1e-5f || TopK == 1 || TopP < 1e-5f;
    public bool HasPenalties => RepetitionPenalty != 1 || FrequencyPenalty != 0 || PresencePenalty != 0;

    /// <exception cref="ArgumentOutOfRangeException">An option is outside its range.</exception>
    public static SamplingSettings Resolve(ErnieGenerationOptions options, GenerationDefaults defaults)
    {
        const float FastDeployTopP = 0.7f;
        // "do_sample: false" speaks of a caller who asks for nothing else.
        var isSilent = options is { Temperature: null, TopP: null, TopK: null, MinP: null };
        var temperature = isSilent && defaults.DoSample == false ? 0 : options.Temperature ?? (float?)defaults.Temperature ?? 1;
        return new SamplingSettings
        {
            Temperature = InRange(temperature, 0, 100, nameof(options.Temperature)),
            TopK = options.TopK is < 0 ? throw new ArgumentOutOfRangeException(nameof(options), options.TopK, "TopK must not be negative.") : options.TopK ?? Math.Max(defaults.TopK ?? 0, 0),
            TopP = InRange(options.TopP ?? (float?)defaults.TopP ?? FastDeployTopP, 0, 1, nameof(options.TopP)),
            MinP = InRange(options.MinP ?? (float?)defaults.MinP ?? 0, 0, 1, nameof(options.MinP)),
            RepetitionPenalty = InRange(options.RepetitionPenalty ?? (float?)defaults.RepetitionPenalty ?? 1, 1e-3f, 1000, nameof(options.RepetitionPenalty)),
            FrequencyPenalty = InRange(options.FrequencyPenalty ?? (float?)defaults.FrequencyPenalty ?? 0, -2, 2, nameof(options.FrequencyPenalty)),
            PresencePenalty = InRange(options.PresencePenalty ?? (float?)defaults.PresencePenalty ?? 0, -2, 2, nameof(options.PresencePenalty)),
            Bias = [.. options.LogitBias?.Select(static pair => KeyValuePair.Create(pair.Key, InRange(pair.Value, -100, 100, nameof(options.LogitBias)))) ?? []],
            Seed = (ulong)(options.Seed ?? Random.Shared.NextInt64()),
        };
    }

    private static float InRange(float value, float least, float most, string name) =>
        value >= least && value <= most ? value : throw new ArgumentOutOfRangeException(name, value, $"{name} must lie between {least} and {most}.");
}
