namespace Ernie.Sdk;

/// <summary>How tokens are chosen. A null takes the model's <c>generation_config.json</c>, else the default given here.</summary>
/// <remarks>
/// The order is FastDeploy's: repetition, frequency and presence penalties, temperature, softmax, min-p, top-k, top-p, then a draw.
/// Rows of the vocabulary that stand for no token are never chosen.
/// </remarks>
public sealed class ErnieGenerationOptions
{
    /// <summary>Gets or sets the most tokens to generate.</summary>
    /// <value>The default is what is left of the context.</value>
    public int? MaxTokens { get; set; }

    /// <summary>Gets or sets what logits are divided by. 0 always takes the most likely token.</summary>
    /// <value>0 to 100; the default is 1, or 0 where the model's configuration says <c>do_sample: false</c>.</value>
    public float? Temperature { get; set; }

    /// <summary>Gets or sets how many of the most likely tokens are kept. 0 keeps all.</summary>
    /// <value>The default is 0.</value>
    public int? TopK { get; set; }

    /// <summary>Gets or sets the probability that the kept tokens reach together, the most likely first.</summary>
    /// <value>0 to 1; the default is 0.7, FastDeploy's.</value>
    public float? TopP { get; set; }

    /// <summary>Gets or sets the least probability of a token that is kept, relative to the most likely one.</summary>
    /// <value>0 to 1; the default is 0.</value>
    public float? MinP { get; set; }

    /// <summary>Gets or sets what the logits of tokens seen in prompt or answer are divided by (multiplied by, where negative).</summary>
    /// <value>More than 0; the default is 1.</value>
    public float? RepetitionPenalty { get; set; }

    /// <summary>Gets or sets what is taken off a logit for each time its token stands in the answer.</summary>
    /// <value>-2 to 2; the default is 0.</value>
    public float? FrequencyPenalty { get; set; }

    /// <summary>Gets or sets what is taken off the logits of tokens that stand in the answer.</summary>
    /// <value>-2 to 2; the default is 0.</value>
    public float? PresencePenalty { get; set; }

    /// <summary>Gets or sets what is added to the logits of tokens, by id, after the penalties. -100 all but forbids a token, 100 all but forces it.</summary>
    /// <value>-100 to 100 for each; the default, <see langword="null"/>, adds nothing.</value>
    public IReadOnlyDictionary<int, float>? LogitBias { get; set; }

    /// <summary>Gets or sets the seed. The same seed gives the same tokens, whatever else the engine computes.</summary>
    /// <value>The default is another one for every request.</value>
    public long? Seed { get; set; }

    /// <summary>
    /// Gets or sets the most tokens that a thinking model reasons before it answers: then a chat client writes the closing tag for it. 0 answers at once. Reasoning that a budget ends
    /// counts as prompt from there on, which is what penalties see.
    /// </summary>
    /// <value>The default is what <c>ChatOptions.Reasoning</c> asks for: 0 for <c>None</c>, 1,024 for <c>Low</c>, 4,096 for <c>Medium</c>, 16,384 for <c>High</c>, and no limit else.</value>
    public int? MaxReasoningTokens { get; set; }

    /// <summary>
    /// Gets or sets how many updates a second a chat client's stream gives at most. Those that come faster are joined: nothing is lost, and the first and the last one come at once. An interface
    /// that redraws for each update stays responsive on a fast model.
    /// </summary>
    /// <value>0.001 to 1,000; the default, <see langword="null"/>, gives each update as it comes.</value>
    public float? MaxUpdatesPerSecond { get; set; }

    /// <summary>Gets or sets how many blocks of a long context are read.</summary>
    /// <value>The default, <see langword="null"/>, is <see cref="ErnieModelOptions.SparseAttention"/>.</value>
    public ErnieSparseAttention? SparseAttention { get; set; }

    /// <summary>Gets or sets who is told how far the prompt is, after each step of prefill. It is called on the engine's thread: return at once.</summary>
    public IProgress<ErniePrefillProgress>? PrefillProgress { get; set; }

    /// <summary>Gets or sets whether to go on after a stop token.</summary>
    public bool IgnoreStopTokens { get; set; }

    /// <summary>A copy that the caller cannot change any more.</summary>
    internal ErnieGenerationOptions Snapshot() => (ErnieGenerationOptions)MemberwiseClone();
}
