using System.Threading.Channels;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// One request: a context that it extends, how, and the channel that its answer leaves by. After <see cref="InferenceEngine.Submit"/> only the engine's thread changes it.
/// </summary>
internal sealed class Sequence
{
    private readonly Channel<GeneratedToken> _output = Channel.CreateUnbounded<GeneratedToken>(new UnboundedChannelOptions { SingleWriter = true, SingleReader = true });
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly int[] _prompt;
    private volatile bool _cancelled;
    private Action? _leaving;

    /// <param name="context">What was said before; the prompt is added to it when the engine takes the request in. It belongs to this request until <see cref="Ended"/>.</param>
    /// <param name="prompt">Ids.</param>
    /// <param name="maxTokens">Most tokens of the answer.</param>
    /// <param name="sampling">How tokens are chosen.</param>
    /// <param name="stopTokens">Tokens that end the answer.</param>
    /// <param name="limits">How many blocks prompt and answer read.</param>
    public Sequence(TokenContext context, ReadOnlySpan<int> prompt, int maxTokens, SamplingSettings sampling, IReadOnlySet<int> stopTokens, SparseLimits limits = default)
    {
        Context = context;
        _prompt = prompt.ToArray();
        PromptLength = context.Tokens.Count + prompt.Length;
        MaxTokens = maxTokens;
        Sampling = sampling;
        StopTokens = stopTokens;
        Limits = limits;
        History = sampling.HasPenalties ? new TokenHistory(context.Tokens.Concat(_prompt)) : null;
    }

    /// <summary>A sequence that generates nothing: <paramref name="onLogits"/> gets the logits [n, vocabulary] of its tokens, on the engine's thread, with the position of the first.</summary>
    public static Sequence ForScoring(ReadOnlySpan<int> tokens, Action<int, ReadOnlySpan<float>> onLogits, SparseLimits limits) =>
        new(new TokenContext(), tokens, 0, SamplingSettings.Greedy, new HashSet<int>(), limits) { OnLogits = onLogits };

    public TokenContext Context { get; }
    /// <summary>Tokens before the answer, those of earlier turns included.</summary>
    public int PromptLength { get; }
    public int MaxTokens { get; }
    public SamplingSettings Sampling { get; }
    public IReadOnlySet<int> StopTokens { get; }
    public SparseLimits Limits { get; }
    public TokenHistory? History { get; }
    public Action<int, ReadOnlySpan<float>>? OnLogits { get; private init; }
    /// <summary>Told how many tokens of the prompt are computed, after each step of prefill, on the engine's thread.</summary>
    public IProgress<ErniePrefillProgress>? Progress { get; init; }
    /// <summary>What the answer must be; null where it may be anything.</summary>
    public TokenConstraint? Constraint { get; init; }
    /// <summary>How many of the likeliest tokens are told beside each that is chosen; null where no probabilities are.</summary>
    public int? TopProbabilities { get; init; }
    /// <summary>Whether the context goes on after the answer: its blocks stay.</summary>
    public bool KeepsContext { get; init; }

    /// <summary>Set by its caller: the engine has it.</summary>
    public bool IsSubmitted { get; set; }
    /// <summary>Called once, before whoever asked can learn that the request is answered, failed or cancelled: the next one must find its place free.</summary>
    public Action? OnLeaving { set => _leaving = value; }
    /// <summary>How many younger sequences were admitted before this one.</summary>
    public int Overtakings { get; set; }
    /// <summary>How often it had to give its memory to an older one.</summary>
    public int Preemptions { get; set; }
    /// <summary>Prompt tokens that were in the cache when it was first admitted.</summary>
    public int CachedTokens { get; set; } = -1;

    public bool IsPrefill => Context.Computed < PromptLength;
    public int GeneratedCount => Context.Tokens.Count - PromptLength;

    public ChannelReader<GeneratedToken> Output => _output.Reader;
    /// <summary>The engine has let go of the request and its context, however it ended.</summary>
    public Task Ended => _ended.Task;
    public bool IsCancelled => _cancelled;

    /// <summary>Adds the prompt to the context.</summary>
    public void Begin() => Context.Append(_prompt, Limits);

    public void Cancel()
    {
        _cancelled = true;
        Leave();
    }

    public void Emit(GeneratedToken token)
    {
        if (token.Finish is not null) Leave();
        _output.Writer.TryWrite(token);
    }

    public void Complete(Exception? failure = null)
    {
        Leave();
        _output.Writer.TryComplete(failure);
        _ended.TrySetResult();
    }

    private void Leave() => Interlocked.Exchange(ref _leaving, null)?.Invoke();
}
