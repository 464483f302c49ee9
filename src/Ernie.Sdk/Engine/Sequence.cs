using System.Threading.Channels;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// One request: its tokens, its place in the cache, and the channel that its answer leaves by. After <see cref="InferenceEngine.Submit"/> only the engine's thread changes it.
/// </summary>
internal sealed class Sequence
{
    private readonly Channel<GeneratedToken> _output = Channel.CreateUnbounded<GeneratedToken>(new UnboundedChannelOptions { SingleWriter = true, SingleReader = true });
    private volatile bool _cancelled;

    public Sequence(IReadOnlyList<int> prompt, int maxTokens, SamplingSettings sampling, IReadOnlySet<int> stopTokens)
    {
        Tokens = [.. prompt];
        PromptLength = prompt.Count;
        MaxTokens = maxTokens;
        Sampling = sampling;
        StopTokens = stopTokens;
        History = sampling.HasPenalties ? new TokenHistory(prompt) : null;
    }

    /// <summary>A sequence that generates nothing: <paramref name="onLogits"/> gets the logits [n, vocabulary] of its tokens, on the engine's thread, with the position of the first.</summary>
    public static Sequence ForScoring(IReadOnlyList<int> tokens, Action<int, ReadOnlySpan<float>> onLogits, SparseLimits limits) =>
        new(tokens, 0, SamplingSettings.Greedy, new HashSet<int>()) { OnLogits = onLogits, Limits = limits };

    public List<int> Tokens { get; }
    public int PromptLength { get; }
    public int MaxTokens { get; }
    public SamplingSettings Sampling { get; }
    public IReadOnlySet<int> StopTokens { get; }
    public TokenHistory? History { get; }
    public SparseLimits Limits { get; init; }
    public Action<int, ReadOnlySpan<float>>? OnLogits { get; private init; }

    /// <summary>How many younger sequences were admitted before this one.</summary>
    public int Overtakings { get; set; }

    /// <summary>Positions whose keys and values are in the cache.</summary>
    public int Computed { get; set; }
    public List<int> BlockTable { get; } = [];
    /// <summary>Blocks that the longest outcome takes; set aside when the sequence is admitted, so that it can always go on.</summary>
    public int ReservedBlocks => KvCache.BlocksFor(PromptLength + MaxTokens);
    public bool IsPrefill => Computed < PromptLength;
    public int GeneratedCount => Tokens.Count - PromptLength;

    public ChannelReader<GeneratedToken> Output => _output.Reader;
    public bool IsCancelled => _cancelled;

    public void Cancel() => _cancelled = true;
    public void Emit(GeneratedToken token) => _output.Writer.TryWrite(token);
    public void Complete(Exception? failure = null) => _output.Writer.TryComplete(failure);
}
