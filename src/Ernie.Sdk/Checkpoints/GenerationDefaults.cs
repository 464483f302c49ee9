namespace Ernie.Sdk.Checkpoints;

/// <summary>What a checkpoint's <c>generation_config.json</c> proposes. A member is null where the file says nothing.</summary>
internal sealed record GenerationDefaults
{
    public const string FileName = "generation_config.json";

    public bool? DoSample { get; init; }
    public double? Temperature { get; init; }
    public double? TopP { get; init; }
    public int? TopK { get; init; }
    public double? MinP { get; init; }
    public double? RepetitionPenalty { get; init; }
    public double? FrequencyPenalty { get; init; }
    public double? PresencePenalty { get; init; }
    public int? MaxNewTokens { get; init; }
    public int? MinNewTokens { get; init; }
    public int? BosTokenId { get; init; }
    public int? PadTokenId { get; init; }
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Empty if the folder has no such file.</summary>
    public static GenerationDefaults Load(string folder)
    {
        var path = Path.Combine(folder, FileName);
        return File.Exists(path) ? Parse(CheckpointFiles.ReadSmall(path, JsonKeys.MaxBytes), FileName) : new GenerationDefaults();
    }

    /// <exception cref="InvalidDataException">A value is senseless.</exception>
    public static GenerationDefaults Parse(ReadOnlySpan<byte> json, string file)
    {
        using var keys = JsonKeys.Parse(json, file);
        const int vocabulary = ErnieConfigLimits.Vocabulary;
        return new GenerationDefaults
        {
            DoSample = keys.Flag("do_sample"),
            Temperature = keys.Number("temperature", 0, 1000),
            TopP = keys.Number("top_p", 0, 1),
            TopK = (int?)keys.Integer("top_k", -1, int.MaxValue),
            MinP = keys.Number("min_p", 0, 1),
            RepetitionPenalty = keys.Number("repetition_penalty", 1e-3, 1000),
            FrequencyPenalty = keys.Number("frequency_penalty", -1000, 1000),
            PresencePenalty = keys.Number("presence_penalty", -1000, 1000),
            MaxNewTokens = (int?)keys.Integer("max_new_tokens", 1, int.MaxValue),
            MinNewTokens = (int?)keys.Integer("min_new_tokens", 0, int.MaxValue),
            BosTokenId = Token(keys, "bos_token_id"),
            PadTokenId = Token(keys, "pad_token_id"),
            EosTokenIds = keys.Integers("eos_token_id", 0, vocabulary - 1, ErnieConfigLimits.StopTokens),
        };
    }

    private static int? Token(JsonKeys keys, string key) => keys.Integer(key, -1, ErnieConfigLimits.Vocabulary - 1) is { } token and >= 0 ? (int)token : null;
}
