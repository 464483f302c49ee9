using System.Runtime.CompilerServices;
using Ernie.Sdk.Engine;

namespace Ernie.Sdk;

/// <summary>
/// A conversation in token ids that keeps its keys and values between turns: it can go on, branch, go back, and be saved. Text is the caller's matter; <see cref="ErnieModel.AsChatClient"/>
/// needs none of this, because prompts that begin the same way share their beginnings anyway.
/// </summary>
/// <remarks>
/// One call at a time. Between turns its blocks stay in the KV cache as long as no request needs them; what was taken away is computed again when the conversation goes on, to the same result.
/// Dispose it before its model.
/// </remarks>
public sealed class ErnieConversation : IDisposable
{
    private readonly ErnieModel _model;
    private readonly TokenContext _context;
    private int _busy;
    private volatile bool _disposed;

    internal ErnieConversation(ErnieModel model, TokenContext context)
    {
        _model = model;
        _context = context;
    }

    /// <summary>Gets the number of tokens so far, prompts and answers.</summary>
    public int TokenCount => _context.Tokens.Count;

    /// <summary>Gets the tokens so far.</summary>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    public IReadOnlyList<int> GetTokens()
    {
        using (Enter()) return [.. _context.Tokens];
    }

    /// <summary>Adds a prompt and answers it.</summary>
    /// <param name="promptIds">Ids of the new turn, as they are.</param>
    /// <param name="options">How to choose tokens; null for the model's defaults.</param>
    /// <param name="cancellationToken">Ends generation. What was added until then stays in the conversation; <see cref="RewindAsync"/> takes it back.</param>
    /// <returns>The generated ids as they come; a stop token, if one ends the answer, is the last.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, the conversation is too long for the context, or an id is outside the vocabulary.</exception>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    public IAsyncEnumerable<int> ContinueAsync(IReadOnlyList<int> promptIds, ErnieGenerationOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        return Ids([.. promptIds], options ?? new ErnieGenerationOptions(), cancellationToken);

        async IAsyncEnumerable<int> Ids(int[] prompt, ErnieGenerationOptions options, [EnumeratorCancellation] CancellationToken cancellation)
        {
            using var call = Enter();
            await foreach (var token in _model.ContinueAsync(_context, prompt, options, keepsContext: true, constraint: null, topProbabilities: null, cancellation).ConfigureAwait(false)) yield return token.Id;
        }
    }

    /// <summary>Makes a second conversation with the same tokens. Both go on by themselves and share what they have in common.</summary>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    public async Task<ErnieConversation> ForkAsync()
    {
        using var call = Enter();
        return new ErnieConversation(_model, await _model.Invoke((scheduler, _) => scheduler.Fork(_context)).ConfigureAwait(false));
    }

    /// <summary>Forgets the tokens from <paramref name="tokenCount"/> on.</summary>
    /// <param name="tokenCount">Tokens to keep: 0 to <see cref="TokenCount"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The conversation has fewer tokens.</exception>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    public async Task RewindAsync(int tokenCount)
    {
        using var call = Enter();
        if ((uint)tokenCount > (uint)TokenCount) throw new ArgumentOutOfRangeException(nameof(tokenCount), tokenCount, $"The conversation has {TokenCount} tokens.");
        await _model.Invoke((scheduler, _) =>
        {
            scheduler.Cut(_context, tokenCount);
            return true;
        }).ConfigureAwait(false);
    }

    /// <summary>Writes the conversation to a file, keys and values included, for <see cref="ErnieModel.RestoreConversationAsync"/>. An existing file is replaced when the new one is whole.</summary>
    /// <param name="path">File.</param>
    /// <param name="cancellationToken">Stops writing; nothing is left behind.</param>
    /// <exception cref="DirectoryNotFoundException">There is no folder for the file.</exception>
    /// <exception cref="IOException">The file cannot be written.</exception>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    public async Task SaveAsync(string path, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        using var call = Enter();
        await _model.SaveAsync(_context, path, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Gives the conversation's memory back.</summary>
    public void Dispose()
    {
        _disposed = true;
        ReleaseIfIdle();
    }

    /// <summary>A call that runs releases the context when it ends.</summary>
    private void ReleaseIfIdle()
    {
        if (_disposed && Interlocked.Exchange(ref _busy, 1) == 0) _model.Release(_context);
    }

    private Call Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (Interlocked.Exchange(ref _busy, 1) != 0) throw new InvalidOperationException("Another call of this conversation is running. Wait for it, or fork the conversation first.");
        return new Call(this);
    }

    private sealed class Call(ErnieConversation conversation) : IDisposable
    {
        public void Dispose()
        {
            Volatile.Write(ref conversation._busy, 0);
            conversation.ReleaseIfIdle();
        }
    }
}
