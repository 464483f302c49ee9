namespace Ernie.Sdk.Engine;

/// <summary>Which tokens a sequence has seen, for penalties: any token of prompt or answer, and how often a token stands in the answer.</summary>
internal sealed class TokenHistory
{
    private readonly Dictionary<int, int> _generated = [];
    private readonly HashSet<int> _seen = [];

    public TokenHistory(IEnumerable<int> prompt) => _seen.UnionWith(prompt);

    public void Add(int token)
    {
        _seen.Add(token);
        _generated[token] = _generated.GetValueOrDefault(token) + 1;
    }

    /// <summary>Every token once, and how often the answer has it.</summary>
    public void AppendTo(List<int> ids, List<int> counts)
    {
        foreach (var token in _seen)
        {
            ids.Add(token);
            counts.Add(_generated.GetValueOrDefault(token));
        }
    }

    public void Penalise(Span<float> logits, SamplingSettings settings)
    {
        if (settings.RepetitionPenalty != 1)
        {
            foreach (var token in _seen)
            {
                ref var logit = ref logits[token];
                logit = logit < 0 ? logit * settings.RepetitionPenalty : logit / settings.RepetitionPenalty;
            }
        }
        foreach (var (token, count) in _generated) logits[token] -= count * settings.FrequencyPenalty + settings.PresencePenalty;
    }
}
