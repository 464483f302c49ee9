using System.Runtime.CompilerServices;
using Ernie.Sdk.Chat;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk;

/// <summary>An ERNIE 4.5 model, loaded into this process.</summary>
/// <remarks>
/// All members are thread-safe. The model owns the ONNX Runtime session and the KV cache; whoever loads it disposes it. Disposing while requests run ends them with
/// <see cref="ObjectDisposedException"/>; disposing twice is harmless.
/// </remarks>
public sealed class ErnieModel : IDisposable, IAsyncDisposable
{
    private readonly ModelRunner _runner;
    private readonly InferenceEngine _engine;
    private readonly GenerationDefaults _defaults;
    private readonly SparseLimits _limits;
    private readonly ModelManifest _manifest;
    private readonly Lazy<string> _fingerprint;
    private readonly ErnieChatClient? _chat;
    private readonly IDisposable _metrics;
    private readonly ServerMetrics _serverMetrics;
    private readonly object _cacheGate = new();
    private readonly CancellationTokenSource _disposing = new();
    /// <summary>Readers and writers of blocks beside the engine's thread.</summary>
    private int _cacheUsers;
    private int _disposed;

    private ErnieModel(string path, ModelManifest manifest, ErnieModelOptions options, GpuChoice? gpu, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        Path = path;
        _manifest = manifest;
        _fingerprint = new Lazy<string>(() => ConversationFile.Fingerprint(manifest));
        ModelId = manifest.Name;
        MaxConcurrentRequests = options.MaxConcurrentRequests;
        VocabularySize = manifest.Config.VocabSize;
        var logger = options.LoggerFactory?.CreateLogger<ErnieModel>();
        _defaults = GenerationDefaults.Load(path);
        _limits = options.SparseAttention.Limits();
        var threads = options.Threads ?? Environment.ProcessorCount;
        var kvType = KvTypeOf(options.KvCacheType);
        var blocks = CacheBudget.BlockCount(manifest, kvType, options, gpu?.CacheBytes);
        ContextLength = (int)Math.Min(options.ContextLength ?? manifest.Config.ContextLength, Math.Min(manifest.Config.ContextLength, (long)blocks * KvBlockLayout.BlockSize));
        var kernels = options.Kernels ?? KernelRegistry.Choose();
        Tokenizer = ErnieTokenizer.Exists(path) ? ErnieTokenizer.Load(path) : null;
        StopTokenIds = new HashSet<int>([.. _defaults.EosTokenIds, .. manifest.Config.EosTokenIds, .. Tokenizer is null ? [] : ChatTemplate.StopTokenIds(Tokenizer)]);
        if (Tokenizer is not null) _chat = new ErnieChatClient(this, Tokenizer, TemplateOf(options.ChatTemplate, path, Tokenizer), new ContextWindow(ContextLength, options.ContextOverflow, options.ContextOverflowHandler), options.Clock);
        var idleBlocks = CacheBudget.IdleLimit(manifest, kvType, options, blocks);
        _runner = gpu is null
            ? new ModelRunner(path, manifest, kvType, blocks, threads, kernels, ExpertReading.For(manifest, options), idleBlocks)
            : new ModelRunner(path, manifest, kvType, blocks, threads, model => GpuDevice.All(gpu, model, kernels, options, logger, progress, cancellationToken), idleBlocks);
        _metrics = ExpertMetrics.Observe(ModelId, _runner.Load);
        try
        {
            _engine = new InferenceEngine(_runner, UndefinedRows(Tokenizer, VocabularySize), options.MaxConcurrentRequests, options.MaxQueuedRequests, options.PrefillChunkTokens, threads, logger);
            _serverMetrics = ServerMetrics.Observe(ModelId, () => (_engine.State, _runner.Cache.BlockCount));
            if (logger is null) return;
            var plan = MemoryPlan.For(manifest.Config, manifest.Formats, kvType, (long)blocks * KvBlockLayout.BlockSize, chunk: options.PrefillChunkTokens);
            logger.LogInformation(
                "Loaded {Model}: {Weights:N0} bytes of weights ({Formats}), up to {Cache:N0} bytes of {KvType} KV cache for {Tokens} tokens, {Threads} threads, kernels {Kernels}, ONNX Runtime {Version}.",
                ModelId, plan.WeightBytes, manifest.Formats.Describe(manifest.Config), plan.CacheBytes, kvType, plan.CacheBlocks * KvBlockLayout.BlockSize, threads, gpu is null ? kernels.Name : "cuda", OrtRuntime.Version);
        }
        catch
        {
            // A logger of the host's may throw too.
            _metrics.Dispose();
            _serverMetrics?.Dispose();
            _engine?.Dispose();
            _runner.Dispose();
            throw;
        }
    }

    /// <summary>Gets the folder of the exported model.</summary>
    public string Path { get; }

    /// <summary>Gets the model's name.</summary>
    public string ModelId { get; }

    /// <summary>Gets the most tokens a prompt and its answer can have together.</summary>
    public int ContextLength { get; }

    /// <summary>Gets the number of rows of the vocabulary, unused ones included.</summary>
    public int VocabularySize { get; }

    /// <summary>Gets the tokens that end an answer.</summary>
    public IReadOnlySet<int> StopTokenIds { get; }

    /// <summary>Gets the tokenizer, or <see langword="null"/> for a model without one, which takes and gives token ids only.</summary>
    public ErnieTokenizer? Tokenizer { get; }

    /// <summary>Loads a model.</summary>
    /// <param name="path">A folder that <see cref="ErnieExporter"/> wrote, or a checkpoint, which is then exported once into <see cref="ErnieModelOptions.CacheDirectory"/>: by default as int4 fitted to a calibration text, which takes hours for a large model.</param>
    /// <param name="options">How to run it; null for the defaults. Later changes to it have no effect.</param>
    /// <param name="progress">Told about an export's progress and, last, about the loaded model.</param>
    /// <param name="cancellationToken">Stops loading.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or <see cref="ErnieModelOptions.ContextLength"/> is more than the model was trained for.</exception>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="InvalidDataException">The folder holds no model, or a damaged one.</exception>
    /// <exception cref="NotSupportedException">The checkpoint is valid, but not one that this library runs.</exception>
    /// <exception cref="ErnieDeviceException"><see cref="ErnieModelOptions.Device"/> is a GPU, and something that it needs is missing.</exception>
    /// <exception cref="PlatformNotSupportedException">ONNX Runtime's native library is missing or does not fit this system.</exception>
    public static Task<ErnieModel> LoadAsync(string path, ErnieModelOptions? options = null, IProgress<ErnieProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        options = options?.Snapshot() ?? new ErnieModelOptions();
        options.Validate();
        return Task.Run(async () =>
        {
            OrtRuntime.Start(options.LoggerFactory?.CreateLogger("Microsoft.ML.OnnxRuntime"), options.AllowOnnxRuntimeTelemetry);
            // Before an export, which may take hours.
            var logger = options.LoggerFactory?.CreateLogger<ErnieModel>();
            var gpu = DeviceChoice.Resolve(path, options, options.Installation ?? CudaInstallation.Default, logger);
            var (folder, name) = await ExportCache.ResolveAsync(path, options, progress, cancellationToken).ConfigureAwait(false);
            cancellationToken.ThrowIfCancellationRequested();
            var manifest = ModelManifest.Read(folder);
            ErnieModelOptions.CheckContext(manifest.Config.ContextLength, options);
            ModelVerifier.Check(folder, manifest);
            if (name is not null) manifest = manifest with { Name = name };
            ErnieModel model;
            try
            {
                model = new ErnieModel(folder, manifest, options, gpu, progress, cancellationToken);
            }
            catch (ErnieDeviceException e) when (options.Device == ErnieDevice.Auto)
            {
                DeviceChoice.LogCpu(logger, e.Message);
                model = new ErnieModel(folder, manifest, options, null, progress, cancellationToken);
            }
            try
            {
                progress?.Report(new ErnieProgress("loaded", manifest.WeightBytes, manifest.WeightBytes, TimeSpan.Zero));
                cancellationToken.ThrowIfCancellationRequested();
                return model;
            }
            catch
            {
                model.Dispose();
                throw;
            }
        }, cancellationToken);
    }

    /// <summary>Gets how routers have spread tokens over experts since the model was loaded. Cheap, and any thread may ask while requests run.</summary>
    /// <remarks>The meter <c>Ernie.Sdk</c> (<see cref="System.Diagnostics.Metrics"/>) gives the same numbers.</remarks>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public ErnieExpertLoad GetExpertLoad()
    {
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        return new ErnieExpertLoad(_runner.Load);
    }

    /// <summary>Says what a model takes to run some conversations at once, before anything is loaded.</summary>
    /// <param name="path">An exported model, or a checkpoint, of which its export is meant. Only headers are read.</param>
    /// <param name="tokens">Tokens of each conversation, prompt and answer together.</param>
    /// <param name="requests">Conversations at once.</param>
    /// <param name="options">How the model would be run: element type of the cache, chunk of prompts, and <see cref="ErnieModelOptions.Export"/> of a checkpoint.</param>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="InvalidDataException">The folder holds no model, or a damaged one.</exception>
    /// <exception cref="NotSupportedException">The checkpoint cannot be exported like this.</exception>
    /// <exception cref="OverflowException">The sizes leave 63 bits.</exception>
    public static ErnieMemoryEstimate EstimateMemory(string path, int tokens, int requests = 1, ErnieModelOptions? options = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ArgumentOutOfRangeException.ThrowIfNegative(requests);
        options ??= new ErnieModelOptions();
        options.Validate();
        var (config, formats) = ErniePlan.Read(path, options.Export);
        return new ErnieMemoryEstimate(MemoryPlan.For(config, formats, KvTypeOf(options.KvCacheType), tokens, requests, options.PrefillChunkTokens));
    }

    /// <summary>Starts a conversation in token ids that keeps its keys and values between turns.</summary>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public ErnieConversation StartConversation()
    {
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        return new ErnieConversation(this, new TokenContext());
    }

    /// <summary>Reads a conversation that <see cref="ErnieConversation.SaveAsync"/> wrote. What does not fit into the KV cache now is computed again when the conversation goes on.</summary>
    /// <param name="path">File.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file is damaged, or was saved with another model, another element type of the cache or a longer context.</exception>
    public Task<ErnieConversation> RestoreConversationAsync(string path, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        return Task.Run(async () =>
        {
            var (header, tokens) = ConversationFile.Read(path, _runner.Cache, _manifest.Config, ContextLength, _fingerprint.Value, cancellationToken);
            var context = TokenContext.Of(tokens, header.TokenRuns(), header.OpenTokens);
            var blocks = await _engine.Invoke((scheduler, _) => scheduler.Take(KvCache.BlocksFor(header.Computed))).ConfigureAwait(false);
            try
            {
                OverCache(token => ConversationFile.Fill(path, blocks, _runner.Cache, token), cancellationToken);
            }
            catch
            {
                await _engine.Invoke((_, cache) => { blocks.ForEach(cache.Release); return true; }).ConfigureAwait(false);
                throw;
            }
            await _engine.Invoke((scheduler, _) =>
            {
                context.BlockTable.AddRange(blocks);
                context.Advance(Math.Min(header.Computed, blocks.Count * KvBlockLayout.BlockSize));
                scheduler.Rest(context);
                return true;
            }).ConfigureAwait(false);
            return new ErnieConversation(this, context);
        }, cancellationToken);
    }

    /// <summary>Gives memory back that is kept for prompts to come.</summary>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public Task ClearPrefixCacheAsync() => _engine.Invoke(static (_, cache) =>
    {
        cache.FreeIdle();
        return true;
    });

    /// <summary>Gets a chat client over this model. It is thread-safe, keeps nothing between calls, and does not own the model.</summary>
    /// <exception cref="NotSupportedException">The model has no tokenizer.</exception>
    public IChatClient AsChatClient() => Client;

    /// <summary>Counts the tokens that a conversation takes as a prompt, the template's own included.</summary>
    /// <param name="messages">The conversation.</param>
    /// <param name="options">Options of the later call: instructions count too.</param>
    /// <param name="cancellationToken">Stops waiting.</param>
    /// <exception cref="NotSupportedException">The model has no tokenizer.</exception>
    public Task<int> CountTokensAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var client = Client;
        var request = client.Request(messages, options);
        return Task.Run(() => client.Encode(request).Count, cancellationToken);
    }

    /// <summary>Continues a prompt of token ids.</summary>
    /// <param name="promptIds">Ids, as they are: nothing is added.</param>
    /// <param name="options">How to choose tokens; null for the model's defaults.</param>
    /// <param name="cancellationToken">Ends generation, in prefill too.</param>
    /// <returns>The generated ids as they come; a stop token, if one ends the answer, is the last.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, too long, or holds an id outside the vocabulary.</exception>
    /// <remarks>Dispose the enumerator, as <c>await foreach</c> does: an abandoned one computes to its last token.</remarks>
    public IAsyncEnumerable<int> GenerateAsync(IReadOnlyList<int> promptIds, ErnieGenerationOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        // A copy: the caller's list may change before the first token is asked for.
        return Ids([.. promptIds], options ?? new ErnieGenerationOptions(), cancellationToken);

        async IAsyncEnumerable<int> Ids(int[] prompt, ErnieGenerationOptions options, [EnumeratorCancellation] CancellationToken cancellation)
        {
            await foreach (var token in GenerateTokensAsync(prompt, options, cancellation).ConfigureAwait(false)) yield return token.Id;
        }
    }

    /// <summary>As <see cref="GenerateAsync"/>, with the reason why the last token is the last.</summary>
    internal IAsyncEnumerable<GeneratedToken> GenerateTokensAsync(IReadOnlyList<int> promptIds, ErnieGenerationOptions options, CancellationToken cancellationToken = default) =>
        GenerateTokensAsync(promptIds, options, null, null, cancellationToken);

    /// <summary>As <see cref="GenerateAsync"/>, with the reason why the last token is the last.</summary>
    internal async IAsyncEnumerable<GeneratedToken> GenerateTokensAsync(IReadOnlyList<int> promptIds, ErnieGenerationOptions options, TokenConstraint? constraint, int? topProbabilities, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        await foreach (var token in ContinueAsync(new TokenContext(), promptIds, options, keepsContext: false, constraint, topProbabilities, cancellationToken).ConfigureAwait(false)) yield return token;
    }

    /// <summary>Adds a prompt to a context and answers it.</summary>
    internal async IAsyncEnumerable<GeneratedToken> ContinueAsync(
        TokenContext context, IReadOnlyList<int> promptIds, ErnieGenerationOptions options, bool keepsContext, TokenConstraint? constraint, int? topProbabilities, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        CheckPrompt(promptIds);
        var count = context.Tokens.Count + promptIds.Count;
        var room = ContextLength - count;
        if (room < 1) throw new ErnieContextOverflowException(count, ContextLength - 1, ContextLength);
        if (options.MaxTokens is < 1) throw new ArgumentOutOfRangeException(nameof(options), options.MaxTokens, "ErnieGenerationOptions.MaxTokens must be at least 1.");
        var maxTokens = Math.Min(room, options.MaxTokens ?? _defaults.MaxNewTokens ?? room);
        if (constraint?.TokensToEnd > maxTokens) throw new ArgumentException($"The shortest answer that was asked for has {constraint.TokensToEnd} tokens, and there is room for {maxTokens}. Raise MaxOutputTokens, or ask for less.", nameof(options));
        var sampling = SamplingSettings.Resolve(options, _defaults);
        foreach (var (id, _) in sampling.Bias)
        {
            if ((uint)id >= (uint)VocabularySize) throw new ArgumentException($"LogitBias names token {id}; ids lie between 0 and {VocabularySize - 1}.", nameof(options));
        }
        var limits = options.SparseAttention?.Limits() ?? _limits;
        var sequence = new Sequence(context, [.. promptIds], maxTokens, sampling, options.IgnoreStopTokens ? new HashSet<int>() : StopTokenIds, limits)
        {
            Progress = options.PrefillProgress,
            Constraint = constraint,
            TopProbabilities = topProbabilities,
            KeepsContext = keepsContext,
        };
        try
        {
            await foreach (var token in RunAsync(sequence, cancellationToken).ConfigureAwait(false)) yield return token;
        }
        finally
        {
            // The next turn may come at once: not before the engine has let go of the context.
            if (keepsContext && sequence.IsSubmitted) await sequence.Ended.ConfigureAwait(false);
        }
    }

    /// <summary>Computes the logits of every token of a text; <paramref name="onLogits"/> gets [n, vocabulary] with the position of the first, in order, on the engine's thread.</summary>
    internal async Task ScoreAsync(IReadOnlyList<int> ids, Action<int, ReadOnlySpan<float>> onLogits, CancellationToken cancellationToken = default)
    {
        CheckPrompt(ids);
        if (ids.Count > ContextLength) throw new ArgumentException($"The text has {ids.Count} tokens, the context {ContextLength}.", nameof(ids));
        await foreach (var _ in RunAsync(Sequence.ForScoring([.. ids], onLogits, _limits), cancellationToken).ConfigureAwait(false))
        {
        }
    }

    /// <summary>Runs a request and tells when the engine let go of it, cancelled or not.</summary>
    /// <returns>A <see cref="System.Diagnostics.Stopwatch"/> timestamp.</returns>
    internal async Task<long> RunToEndAsync(int[] promptIds, ErnieGenerationOptions options, CancellationToken cancellationToken)
    {
        CheckPrompt(promptIds);
        var sequence = new Sequence(new TokenContext(), promptIds, Math.Min(options.MaxTokens ?? 1, ContextLength - promptIds.Length), SamplingSettings.Resolve(options, _defaults), new HashSet<int>(), _limits);
        _engine.Submit(sequence);
        using var registration = cancellationToken.UnsafeRegister(_ => _engine.Cancel(sequence), null);
        await sequence.Ended.ConfigureAwait(false);
        return System.Diagnostics.Stopwatch.GetTimestamp();
    }

    /// <summary>Runs something on the engine's thread, between two steps.</summary>
    internal Task<T> Invoke<T>(Func<Scheduler, KvCache, T> call) => _engine.Invoke(call);

    internal async Task SaveAsync(TokenContext context, string path, CancellationToken cancellationToken)
    {
        // Held while the file is written: neither reclaimed nor changed.
        var snapshot = await _engine.Invoke((scheduler, _) => scheduler.Hold(context)).ConfigureAwait(false);
        try
        {
            await Task.Run(() => OverCache(token => ConversationFile.Write(path, snapshot, _runner.Cache, _fingerprint.Value, token), cancellationToken), cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            Release(snapshot);
        }
    }

    /// <summary>Runs something that reads or writes blocks of the cache beside the engine's thread. Disposing the model cancels it and waits for its end: the cache is not unmapped under it.</summary>
    /// <exception cref="ObjectDisposedException">The model was disposed before it came to an end.</exception>
    internal void OverCache(Action<CancellationToken> work, CancellationToken cancellationToken)
    {
        lock (_cacheGate)
        {
            ObjectDisposedException.ThrowIf(_disposed != 0, this);
            _cacheUsers++;
        }
        try
        {
            using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, _disposing.Token);
            work(stop.Token);
        }
        catch (OperationCanceledException) when (_disposing.IsCancellationRequested && !cancellationToken.IsCancellationRequested)
        {
            throw new ObjectDisposedException(nameof(ErnieModel), "The model was disposed while a conversation was written or read.");
        }
        finally
        {
            lock (_cacheGate)
            {
                _cacheUsers--;
                Monitor.PulseAll(_cacheGate);
            }
        }
    }

    /// <summary>Gives a context's blocks back, whether or not the engine still runs.</summary>
    internal void Release(TokenContext context)
    {
        try
        {
            _ = _engine.Invoke((scheduler, _) =>
            {
                scheduler.Release(context);
                return true;
            });
        }
        catch (ObjectDisposedException)
        {
            // The cache is gone with the engine.
        }
    }

    /// <summary>Blocks of the KV cache that no request holds; exact while no request runs.</summary>
    internal (int Free, int All) KvBlocks => (_engine.State.FreeBlocks, _runner.Cache.BlockCount);

    /// <summary>How many requests are computed together at most.</summary>
    internal int MaxConcurrentRequests { get; }

    /// <summary>Requests that the engine has not admitted yet, as of the last step.</summary>
    internal int WaitingRequests => _engine.State.Waiting;

    /// <summary>How often a request lost its memory to an older one.</summary>
    internal long Preemptions => _engine.State.Preemptions;

    /// <summary>Bytes of experts' weights that the system was asked to read ahead.</summary>
    internal long PrefetchedBytes => _runner.PrefetchedBytes;

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        _disposing.Cancel();
        lock (_cacheGate)
        {
            while (_cacheUsers > 0) Monitor.Wait(_cacheGate);
        }
        _disposing.Dispose();
        _metrics.Dispose();
        _serverMetrics.Dispose();
        _engine.Dispose();
        _runner.Dispose();
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => new(Task.Run(Dispose));

    private async IAsyncEnumerable<GeneratedToken> RunAsync(Sequence sequence, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        using var metrics = sequence.OnLogits is null ? _serverMetrics.Begin(sequence.PromptLength) : null;
        try
        {
            _engine.Submit(sequence);
        }
        catch (Exception e)
        {
            metrics?.Fail(e);
            throw;
        }
        sequence.IsSubmitted = true;
        var isWhole = false;
        try
        {
            // The engine hears of a cancel at once, not when this loop is next scheduled.
            await using var registration = cancellationToken.UnsafeRegister(_ => _engine.Cancel(sequence), null).ConfigureAwait(false);
            await foreach (var token in sequence.Output.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                metrics?.Add(token);
                yield return token;
            }
            cancellationToken.ThrowIfCancellationRequested();
            isWhole = true;
        }
        finally
        {
            if (sequence.Output.Completion.Exception?.InnerException is { } failure) metrics?.Fail(failure);
            else if (!isWhole && cancellationToken.IsCancellationRequested) metrics?.Fail(new OperationCanceledException(cancellationToken));
            _engine.Cancel(sequence);
        }
    }

    private ErnieChatClient Client => _chat ?? throw new NotSupportedException($"{Path} has no tokenizer.model. Copy the checkpoint's tokenizer files there, or use GenerateAsync with token ids.");

    internal static KvElementType KvTypeOf(ErnieKvCacheType type) => type switch { ErnieKvCacheType.Float32 => KvElementType.Float32, ErnieKvCacheType.Int8 => KvElementType.Int8, _ => KvElementType.BFloat16 };

    private static ChatTemplate TemplateOf(ErnieChatTemplate wanted, string path, ErnieTokenizer tokenizer) => wanted switch
    {
        ErnieChatTemplate.Standard => new StandardTemplate(),
        ErnieChatTemplate.Thinking => new ThinkingTemplate(),
        _ => ChatTemplate.For(path, tokenizer),
    };

    /// <summary>Rows of the vocabulary that stand for no token; without a tokenizer, none are known.</summary>
    private static List<Range> UndefinedRows(ErnieTokenizer? tokenizer, int vocabularySize)
    {
        var ranges = new List<Range>();
        if (tokenizer is null) return ranges;
        for (var id = 0; id < vocabularySize; id++)
        {
            if (tokenizer.IsDefined(id)) continue;
            var first = id;
            while (id < vocabularySize && !tokenizer.IsDefined(id)) id++;
            ranges.Add(first..id);
        }
        return ranges;
    }

    private void CheckPrompt(IReadOnlyList<int> ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        if (ids.Count == 0) throw new ArgumentException("The prompt is empty.", nameof(ids));
        for (var i = 0; i < ids.Count; i++)
        {
            if ((uint)ids[i] >= (uint)VocabularySize) throw new ArgumentException($"Token {i} of the prompt is {ids[i]}; ids lie between 0 and {VocabularySize - 1}.", nameof(ids));
        }
    }
}
