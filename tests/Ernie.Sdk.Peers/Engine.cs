namespace Ernie.Sdk.Peers;

/// <summary>A loaded model of one of the compared engines.</summary>
internal abstract class Engine : IAsyncDisposable
{
    public abstract string Name { get; }
    public abstract int VocabularySize { get; }

    /// <summary>Seconds from a prompt to its first token.</summary>
    public abstract Task<double> PrefillAsync(IReadOnlyList<int> prompt);

    /// <summary>Seconds of <paramref name="tokens"/> decode steps after a prompt, one token each; the prompt is not in them. And the bytes of weights, keys and values that a step reads.</summary>
    public abstract Task<(double Seconds, double BytesOfStep)> DecodeAsync(IReadOnlyList<int> prompt, int tokens);

    public abstract ValueTask DisposeAsync();
}
