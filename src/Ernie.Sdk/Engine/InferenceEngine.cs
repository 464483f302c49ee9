using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Engine;

/// <summary>
/// The one thread that owns scheduler, cache and session. Requests come in through <see cref="Submit"/>, tokens go out through each sequence's channel; an idle engine waits without using the processor.
/// </summary>
internal sealed class InferenceEngine : IDisposable
{
    private readonly ModelRunner _runner;
    private readonly Sampler _sampler;
    private readonly Scheduler _scheduler;
    private readonly ILogger? _logger;
    private readonly Thread _thread;
    private readonly object _gate = new();
    private readonly Queue<Sequence> _incoming = new();
    private readonly int _vocabSize;
    private Sequence[] _inStep = [];
    private StepTermination? _termination;
    private bool _stopping;

    public InferenceEngine(ModelRunner runner, int vocabSize, IReadOnlyList<Range> undefinedRows, int maxConcurrentRequests, int prefillChunkTokens, ILogger? logger)
    {
        _runner = runner;
        _vocabSize = vocabSize;
        _sampler = new Sampler(vocabSize, undefinedRows);
        _scheduler = new Scheduler(runner.Cache, maxConcurrentRequests, prefillChunkTokens);
        _logger = logger;
        _thread = new Thread(Loop) { IsBackground = true, Name = "ernie-engine" };
        _thread.Start();
        AppDomain.CurrentDomain.ProcessExit += OnProcessExit;
    }

    /// <exception cref="ObjectDisposedException">The engine has been stopped.</exception>
    public void Submit(Sequence sequence)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_stopping, typeof(ErnieModel));
            _incoming.Enqueue(sequence);
            Monitor.Pulse(_gate);
        }
    }

    /// <summary>Ends a sequence early. A step that computes nothing else is broken off.</summary>
    public void Cancel(Sequence sequence)
    {
        sequence.Cancel();
        lock (_gate)
        {
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
        foreach (var sequence in _scheduler.All.Concat(_incoming).ToArray()) sequence.Complete(new ObjectDisposedException(nameof(ErnieModel), "The model was disposed while this request was running."));
    }

    /// <summary>Takes what has come in; waits while there is nothing to do. False when the engine stops.</summary>
    private bool Receive()
    {
        lock (_gate)
        {
            while (!_stopping && _incoming.Count == 0 && _scheduler.IsIdle) Monitor.Wait(_gate);
            while (_incoming.TryDequeue(out var sequence)) _scheduler.Enqueue(sequence);
            return !_stopping;
        }
    }

    private void Step(StepBatch batch)
    {
        var termination = Enter();
        ReadOnlySpan<float> logits; // [rows, vocabulary]
        try
        {
            logits = _runner.Run(batch, termination);
        }
        catch (OperationCanceledException)
        {
            return; // Nothing was recorded: sequences that are still wanted compute the same positions again.
        }
        finally
        {
            lock (_gate) (_termination, _inStep) = (null, []);
        }

        var row = 0;
        foreach (var (sequence, tokenCount) in _scheduler.Step)
        {
            sequence.Computed += tokenCount;
            if (sequence.OnLogits is { } onLogits)
            {
                Deliver(sequence, onLogits, logits.Slice(row * _vocabSize, tokenCount * _vocabSize), tokenCount);
                row += tokenCount;
            }
            else if (!sequence.IsPrefill)
            {
                Extend(sequence, logits.Slice(row++ * _vocabSize, _vocabSize));
            }
        }
    }

    private StepTermination Enter()
    {
        var termination = new StepTermination();
        lock (_gate)
        {
            _termination = termination;
            _inStep = [.. _scheduler.Step.Select(static s => s.Sequence)];
            if (_stopping || Array.TrueForAll(_inStep, static s => s.IsCancelled)) termination.Request();
        }
        return termination;
    }

    private void Extend(Sequence sequence, ReadOnlySpan<float> logits)
    {
        var token = _sampler.Sample(logits, sequence.Sampling, sequence.History, sequence.GeneratedCount);
        sequence.Tokens.Add(token);
        sequence.History?.Add(token);
        FinishReason? finish = sequence.StopTokens.Contains(token) ? FinishReason.Stop : sequence.GeneratedCount >= sequence.MaxTokens ? FinishReason.Length : null;
        sequence.Emit(new GeneratedToken(token, finish));
        if (finish is not null) _scheduler.Finish(sequence);
    }

    private void Deliver(Sequence sequence, Action<int, ReadOnlySpan<float>> onLogits, ReadOnlySpan<float> logits, int tokenCount)
    {
#pragma warning disable CA1031 // The callback is the caller's code: what it throws goes back to the caller.
        try
        {
            onLogits(sequence.Computed - tokenCount, logits);
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
        var failed = _scheduler.Step.Select(static s => s.Sequence).ToArray();
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
