using System.Diagnostics;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Engine;

/// <summary>
/// The one thread that owns scheduler, cache and session. Requests come in through <see cref="Submit"/>, tokens go out through each sequence's channel; an idle engine waits without using the processor.
/// </summary>
internal sealed class InferenceEngine : IDisposable
{
    private readonly ModelRunner _runner;
    private readonly StepSampler _sampler;
    private readonly Scheduler _scheduler;
    private readonly ILogger? _logger;
    private readonly Thread _thread;
    private readonly object _gate = new();
    private readonly Queue<Sequence> _incoming = new();
    private readonly Queue<Action<bool>> _calls = new();
    private readonly ChunkBudget _budget;
    private readonly int _maxConcurrentRequests;
    private readonly int _maxQueuedRequests;
    /// <summary>Requests that were taken in and are neither answered nor cancelled.</summary>
    private int _openCount;
    /// <summary>Requests that the last plan left waiting.</summary>
    private int _passedOverCount;
    private volatile EngineState _state = new(0, 0, 0, 0, 0);
    private Sequence[] _inStep = [];
    private StepTermination? _termination;
    private bool _stopping;

    public InferenceEngine(ModelRunner runner, IReadOnlyList<Range> undefinedRows, int maxConcurrentRequests, int maxQueuedRequests, int prefillChunkTokens, int threadCount, ILogger? logger)
    {
        _runner = runner;
        _maxConcurrentRequests = maxConcurrentRequests;
        _maxQueuedRequests = maxQueuedRequests;
        _sampler = runner.Sampler(undefinedRows, threadCount);
        _budget = new ChunkBudget(prefillChunkTokens);
        _scheduler = new Scheduler(runner.Cache, maxConcurrentRequests, _budget);
        _logger = logger;
        _thread = new Thread(Loop) { IsBackground = true, Name = "ernie-engine" };
        _thread.Start();
        AppDomain.CurrentDomain.ProcessExit += OnProcessExit;
    }

    /// <summary>Requests that run, that wait, and blocks of the cache, as of the last step.</summary>
    public EngineState State => _state;

    /// <exception cref="ObjectDisposedException">The engine has been stopped.</exception>
    /// <exception cref="ErnieQueueFullException">Too many requests wait already.</exception>
    public void Submit(Sequence sequence)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_stopping, typeof(ErnieModel));
            // A request that the next step takes in does not wait. Where the last plan left some waiting, for memory or for a place, there are no more places than run.
            var places = _passedOverCount > 0 ? _state.Running : _maxConcurrentRequests;
            var waiting = Volatile.Read(ref _openCount) - places;
            if (waiting >= _maxQueuedRequests) throw new ErnieQueueFullException(waiting);
            Interlocked.Increment(ref _openCount);
            sequence.OnLeaving = () => Interlocked.Decrement(ref _openCount);
            _incoming.Enqueue(sequence);
            Monitor.Pulse(_gate);
        }
    }

    /// <summary>Runs something on the engine's thread, between two steps.</summary>
    /// <exception cref="ObjectDisposedException">The engine has been stopped.</exception>
    public Task<T> Invoke<T>(Func<Scheduler, KvCache, T> call)
    {
        var completion = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_stopping, typeof(ErnieModel));
            _calls.Enqueue(Run);
            Monitor.Pulse(_gate);
        }
        return completion.Task;

        void Run(bool stopping)
        {
#pragma warning disable CA1031 // The failure is the caller's.
            try
            {
                ObjectDisposedException.ThrowIf(stopping, typeof(ErnieModel));
                completion.SetResult(call(_scheduler, _runner.Cache));
            }
            catch (Exception e)
            {
                completion.SetException(e);
            }
#pragma warning restore CA1031
        }
    }

    /// <summary>Ends a sequence early. A running step leaves it out from here on, and is broken off where it computes nothing else.</summary>
    public void Cancel(Sequence sequence)
    {
        sequence.Cancel();
        lock (_gate)
        {
            var index = Array.IndexOf(_inStep, sequence);
            if (index >= 0) _termination!.Drop(index);
            if (_inStep.Length > 0 && Array.TrueForAll(_inStep, static s => s.IsCancelled)) _termination?.Request();
            Monitor.Pulse(_gate);
        }
    }

    /// <summary>Breaks off what is running, fails what is waiting, and ends the thread.</summary>
    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnProcessExit;
        Stop();
        _thread.Join();
    }

    /// <summary>
    /// A host that never disposes its model: after this event the native library tears down what a running step still uses, which would end the process by a signal. A step ends at its next
    /// kernel boundary; the limit is for the largest kernels.
    /// </summary>
    private void OnProcessExit(object? sender, EventArgs e)
    {
        Stop();
        if (Thread.CurrentThread != _thread) _thread.Join(TimeSpan.FromSeconds(10));
    }

    private void Stop()
    {
        lock (_gate)
        {
            _stopping = true;
            _termination?.Request();
            Monitor.Pulse(_gate);
        }
    }

    private void Loop()
    {
        var batch = new StepBatch();
        while (Receive())
        {
#pragma warning disable CA1031 // Whatever a step throws belongs to its requests; the engine goes on with the others.
            try
            {
                if (_scheduler.Plan(batch)) Step(batch);
            }
            catch (Exception e)
            {
                Fail(e);
            }
#pragma warning restore CA1031
        }
        while (_calls.TryDequeue(out var call)) call(true);
        foreach (var sequence in _scheduler.All.Concat(_incoming).ToArray()) sequence.Complete(new ObjectDisposedException(nameof(ErnieModel), "The model was disposed while this request was running."));
    }

    /// <summary>Takes what has come in; waits while there is nothing to do. False when the engine stops.</summary>
    private bool Receive()
    {
        Action<bool>[] calls;
        lock (_gate)
        {
            Observe();
            _passedOverCount = _scheduler.WaitingCount;
            while (!_stopping && _incoming.Count == 0 && _calls.Count == 0 && _scheduler.IsIdle) Monitor.Wait(_gate);
            while (_incoming.TryDequeue(out var sequence)) _scheduler.Enqueue(sequence);
            Observe();
            if (_stopping) return false;
            calls = [.. _calls];
            _calls.Clear();
        }
        foreach (var call in calls) call(false);
        return true;
    }

    private void Observe()
    {
        _state = new EngineState(_scheduler.RunningCount, _scheduler.WaitingCount, _runner.Cache.FreeBlockCount, _runner.Cache.IdleBlockCount, _scheduler.Preemptions);
    }

    private void Step(StepBatch batch)
    {
        var termination = Enter();
        var started = Stopwatch.GetTimestamp();
        try
        {
            _runner.Run(batch, termination, []);
        }
        catch (OperationCanceledException)
        {
            return; // Nothing was recorded: sequences that are still wanted compute the same positions again.
        }
        finally
        {
            lock (_gate) (_termination, _inStep) = (null, []);
        }
        var step = _scheduler.Step;
        var sequences = new Sequence[step.Count];
        var firstRows = new int[step.Count];
        var drawn = new int[step.Count];
        for (int i = 0, row = 0; i < step.Count; i++)
        {
            var (sequence, tokenCount, _) = step[i];
            (sequences[i], firstRows[i]) = (sequence, row);
            var isLast = sequence.Context.Computed + tokenCount == sequence.Context.Tokens.Count;
            row += sequence.OnLogits is not null ? tokenCount : isLast ? 1 : 0;
            drawn[i] = sequence.OnLogits is null && isLast && !sequence.IsCancelled ? firstRows[i] : -1;
        }
        var choices = new TokenChoice[step.Count];
        if (Array.Exists(drawn, static row => row >= 0)) _sampler.Choose(sequences, drawn, choices);
        else _runner.Wait();
        // A GPU is not done before.
        var decoding = step.Count(static s => s.IsDecode);
        _budget.Observe(decoding, batch.TokenCount - decoding, Stopwatch.GetElapsedTime(started));

        for (var i = 0; i < sequences.Length; i++)
        {
            var sequence = sequences[i];
            // Cancelled in the middle of the step: kernels have left out parts of it.
            if (sequence.IsCancelled) continue;
            var (wasPrefill, tokenCount) = (sequence.IsPrefill, step[i].TokenCount);
            _scheduler.Advance(sequence, tokenCount);
            if (wasPrefill) Report(sequence);
            if (sequence.OnLogits is { } onLogits) Deliver(sequence, onLogits, _runner.Logits(firstRows[i], tokenCount), tokenCount);
            else if (drawn[i] >= 0) Extend(sequence, choices[i]);
        }
    }

    private static void Report(Sequence sequence)
    {
#pragma warning disable CA1031 // A host's progress that throws must not end the engine's thread.
        try
        {
            sequence.Progress?.Report(new ErniePrefillProgress(Math.Min(sequence.Context.Computed, sequence.PromptLength), sequence.PromptLength, sequence.CachedTokens));
        }
        catch (Exception)
        {
        }
#pragma warning restore CA1031
    }

    private StepTermination Enter()
    {
        var termination = new StepTermination();
        lock (_gate)
        {
            _termination = termination;
            _inStep = [.. _scheduler.Step.Select(static s => s.Sequence)];
            _passedOverCount = _scheduler.WaitingCount;
            Observe();
            if (_stopping || Array.TrueForAll(_inStep, static s => s.IsCancelled)) termination.Request();
        }
        return termination;
    }

    private void Extend(Sequence sequence, TokenChoice choice)
    {
        if (choice.Failure is not null)
        {
            _scheduler.Finish(sequence, choice.Failure);
            return;
        }
        var token = choice.Token;
        sequence.Context.Add(token, sequence.Limits);
        sequence.History?.Add(token);
        FinishReason? finish = sequence.StopTokens.Contains(token) ? FinishReason.Stop : sequence.GeneratedCount >= sequence.MaxTokens ? FinishReason.Length : null;
        sequence.Emit(new GeneratedToken(token, finish, sequence.CachedTokens, choice.Probabilities));
        if (finish is not null) _scheduler.Finish(sequence);
    }

    private void Deliver(Sequence sequence, Action<int, ReadOnlySpan<float>> onLogits, ReadOnlySpan<float> logits, int tokenCount)
    {
#pragma warning disable CA1031 // The callback is the caller's code: what it throws goes back to the caller.
        try
        {
            onLogits(sequence.Context.Computed - tokenCount, logits);
            if (!sequence.IsPrefill) _scheduler.Finish(sequence);
        }
        catch (Exception e)
        {
            _scheduler.Finish(sequence, e);
        }
#pragma warning restore CA1031
    }

    private void Fail(Exception e)
    {
        var failed = _scheduler.Failing;
        foreach (var sequence in failed) _scheduler.Finish(sequence, e);
#pragma warning disable CA1031 // A host's logger that throws must not end the engine's thread, and with it the process.
        try
        {
            _logger?.LogError(e, "A step failed; its {Count} requests end with this error.", failed.Length);
        }
        catch (Exception)
        {
        }
#pragma warning restore CA1031
    }
}
