using System.Runtime.InteropServices;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>An exported model on one device or several, with its cache: an ONNX Runtime session for each, which computes some layers. Runs steps; knows nothing of requests. One thread at a time.</summary>
internal sealed unsafe class ModelRunner : IDisposable
{
    /// <summary>Of ONNX Runtime's run options: which captured graph a run is; -1 none.</summary>
    private const string GraphId = "gpu_graph_id";
    /// <summary>Likewise: 1, a run does not wait for the GPU (kOrtRunOptionsConfigDisableSynchronizeExecutionProviders).</summary>
    private const string RunsAhead = "disable_synchronize_execution_providers";
    private readonly IReadOnlyList<StepDevice> _devices;
    private readonly List<GraphSession> _sessions = [];
    private readonly ScratchBuffer _flags = new();
    private readonly ScratchBuffer _starts = new();
    private readonly int _vocabSize;
    private int _logitRows;

    /// <summary>On the CPU.</summary>
    public ModelRunner(string folder, ModelManifest manifest, KvElementType kvType, int kvBlockCount, int threadCount, CpuKernels kernels, ExpertReading reading = default, int? idleBlocks = null)
        : this(folder, manifest, kvType, kvBlockCount, threadCount, model => [new CpuDevice(model, kernels, threadCount, reading, new LayerRange(0, manifest.Config.LayerCount - 1))], idleBlocks)
    {
    }

    /// <param name="folder">Of the export.</param>
    /// <param name="manifest">Of the export.</param>
    /// <param name="kvType">Element type of the cache.</param>
    /// <param name="kvBlockCount">Blocks of the cache.</param>
    /// <param name="threadCount">Of ONNX Runtime's pool, the calling one included.</param>
    /// <param name="devices">Makes the devices, in the order of their layers, which together are the model's. The runner then owns them.</param>
    /// <param name="idleBlocks">Blocks that may be kept for prompts to come; null: all.</param>
    public ModelRunner(string folder, ModelManifest manifest, KvElementType kvType, int kvBlockCount, int threadCount, Func<RunnerModel, IReadOnlyList<StepDevice>> devices, int? idleBlocks = null)
    {
        var config = manifest.Config;
        _vocabSize = config.VocabSize;
        var layout = new KvBlockLayout(kvType, config.KvHeadCount, config.HeadDim);
        Load = new ExpertLoad(Enumerable.Range(0, config.LayerCount).Where(config.IsMoeLayer).Select(static layer => (layer, ErnieGraph.ExpertsNode(layer))), config.ExpertCount, config.ExpertsPerToken);
        var positions = (int)Math.Min(config.ContextLength, (long)kvBlockCount * KvBlockLayout.BlockSize);
        _devices = devices(new RunnerModel(folder, manifest, layout, new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, positions), Load));
        try
        {
            Cache = new KvCache(layout, config.LayerCount, kvBlockCount, bytes => Reserve(bytes / config.LayerCount)) { IdleLimit = idleBlocks ?? kvBlockCount };
            foreach (var device in _devices) _sessions.Add(new GraphSession(folder, manifest, device, Cache, threadCount));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public KvCache Cache { get; }

    /// <summary>How routers choose experts; any thread may read it.</summary>
    public ExpertLoad Load { get; }

    /// <summary>Bytes of experts' weights that the system was asked to read ahead.</summary>
    public long PrefetchedBytes => _devices.Sum(static device => device.PrefetchedBytes);

    /// <summary>Whether decode steps are captured as graphs, which ends where that fails.</summary>
    public bool UsesGraphs => Last.CapturesSteps && !Last.HasGivenUpGraphs;

    /// <summary>Whether graphs that there are run. Steps without them can be measured beside.</summary>
    public bool AllowsGraphs { get; set; } = true;

    /// <summary>Runs one step and returns [rows, vocabulary] logits of <see cref="StepBatch.LogitRows"/>, valid until the next call.</summary>
    /// <exception cref="OperationCanceledException"><paramref name="termination"/> was set; the step may be run again.</exception>
    public ReadOnlySpan<float> Run(StepBatch batch, StepTermination? termination = null)
    {
        Run(batch, termination, []);
        return Logits(0, _logitRows);
    }

    /// <summary>Some rows of the logits of the last step, [rows, vocabulary], valid until the next call.</summary>
    public ReadOnlySpan<float> Logits(int firstRow, int rows) => Last.ReadLogits(firstRow, rows, _vocabSize);

    /// <summary>What chooses tokens from the logits of the last step, where they are. It lives as long as the runner.</summary>
    public StepSampler Sampler(IReadOnlyList<Range> undefinedRows, int threadCount) => Last.Sampler(_vocabSize, undefinedRows, threadCount);

    /// <summary>Waits for the last step, where neither its tokens were chosen nor its logits read: only then nothing writes to the cache any more.</summary>
    public void Wait() => Last.Wait();

    /// <summary>The device that has the head.</summary>
    private StepDevice Last => _devices[^1];

    /// <summary>As <see cref="Run(StepBatch, StepTermination?)"/>, and reads these further outputs of a debug export.</summary>
    public IReadOnlyList<OrtValue> Run(StepBatch batch, StepTermination? termination, IReadOnlyList<string> debugOutputs)
    {
        var tables = batch.BlockTables(out var width);
        using var ids = Ints(CollectionsMarshal.AsSpan(batch.InputIds), batch.TokenCount);
        using var positions = Ints(CollectionsMarshal.AsSpan(batch.Positions), batch.TokenCount);
        using var starts = Shared(_starts, CollectionsMarshal.AsSpan(batch.SequenceStarts));
        using var flags = Shared(_flags, CollectionsMarshal.AsSpan(batch.Flags));
        var live = new LiveRows((int*)_flags.Rent(0), (int*)_starts.Rent(0), batch.SequenceCount);
        Begin(batch, live);
        using var blocks = Ints(tables, batch.SequenceCount, width);
        using var limits = Ints(MemoryMarshal.Cast<SparseLimits, int>(CollectionsMarshal.AsSpan(batch.Limits)), batch.SequenceCount, SparseLimits.Count);
        using var rows = Ints(CollectionsMarshal.AsSpan(batch.LogitRows), batch.LogitRows.Count);
        _logitRows = batch.LogitRows.Count;
        if (debugOutputs.Count == 0 && AllowsGraphs && Last.Captured(batch, _vocabSize) is { } captured)
        {
            if (TryRun(captured, termination)) return [];
            Begin(batch, live);
        }
        using var logits = Last.BindLogits(_logitRows, _vocabSize);
        using var runOptions = new RunOptions();
        if (Last.CapturesSteps) runOptions.AddRunConfigEntry(GraphId, "-1");
        // What is read of a debug export is copied to the CPU behind the run.
        if (Last.RunsAhead && debugOutputs.Count == 0) runOptions.AddRunConfigEntry(RunsAhead, "1");
        if (termination is not null && !termination.Attach(runOptions, _devices, (int*)_flags.Rent(0))) throw new OperationCanceledException();
        var (device, isComputed) = (_devices[0], false);
        try
        {
            (string, OrtValue)[] numbers = [(ErnieGraph.Positions, positions), (ErnieGraph.SequenceStarts, starts), (ErnieGraph.SequenceFlags, flags), (ErnieGraph.BlockTables, blocks), (ErnieGraph.SparseLimits, limits)];
            for (var i = 0; ; i++)
            {
                device = _devices[i];
                using var hidden = i == 0 ? null : device.Receive(batch.TokenCount);
                var input = hidden is null ? (ErnieGraph.InputIds, ids) : (ErnieGraph.Hidden, hidden);
                if (i == _devices.Count - 1)
                {
                    var outputs = _sessions[i].Run(runOptions, [input, .. numbers, (ErnieGraph.LogitRows, rows)], (ErnieGraph.Logits, logits), debugOutputs);
                    device.End(0);
                    isComputed = true;
                    return outputs;
                }
                using var output = device.BindHidden(batch.TokenCount, _devices[i + 1].Landing);
                _sessions[i].Run(runOptions, [input, .. numbers], (ErnieGraph.NextHidden, output), []);
                device.End(_devices[i + 1].Landing);
            }
        }
        catch (OnnxRuntimeException) when (termination is { IsRequested: true })
        {
            throw new OperationCanceledException();
        }
        catch (OnnxRuntimeException e) when (device.Explain(e) is { } reason)
        {
            throw reason;
        }
        finally
        {
            // What was asked of a GPU may be under way still, in blocks and buffers that others get next.
            for (var i = 0; i < _devices.Count && !isComputed; i++) _devices[i].Abandon();
            termination?.Detach();
        }
    }

    private void Begin(StepBatch batch, LiveRows live)
    {
        foreach (var device in _devices) device.Begin(batch, live);
    }

    /// <summary>Memory of each device for the cache of its layers.</summary>
    /// <param name="layerBytes">Of one layer.</param>
    private KvMemory Reserve(long layerBytes)
    {
        var parts = new List<(KvMemory Memory, nint Bytes)>(_devices.Count);
        try
        {
            foreach (var device in _devices)
            {
                var bytes = layerBytes * device.Layers.Count;
                parts.Add((device.Reserve(bytes), (nint)bytes));
            }
        }
        catch
        {
            foreach (var (memory, _) in parts) memory.Dispose();
            throw;
        }
        return parts.Count == 1 ? parts[0].Memory : new SplitKvMemory([.. parts]);
    }

    /// <summary>
    /// Runs a step that is captured. It cannot be broken off: it takes no longer than a token. Where it fails, the device gives graphs up: the step can run as an ordinary one, which stores the same keys and values. So can one
    /// that would be captured while another model is loaded.
    /// </summary>
    private bool TryRun(CapturedStep step, StepTermination? termination)
    {
        if (termination is { IsRequested: true }) throw new OperationCanceledException();
        var captures = !step.IsCaptured;
        if (captures && !GraphCaptures.TryBegin()) return false;
        using var runOptions = new RunOptions();
        runOptions.AddRunConfigEntry(GraphId, step.Id.ToString(System.Globalization.CultureInfo.InvariantCulture));
        runOptions.AddRunConfigEntry(RunsAhead, "1");
        try
        {
            _sessions[^1].Run(runOptions, step);
        }
        catch (OnnxRuntimeException e)
        {
            Last.GiveUpGraphs(Last.Explain(e) ?? e);
            return false;
        }
        finally
        {
            if (captures) GraphCaptures.End();
        }
        step.IsCaptured = true;
        Last.End(0);
        return true;
    }

    public void Dispose()
    {
        foreach (var device in _devices) device.Stop();
        foreach (var session in _sessions) session.Dispose();
        Cache?.Dispose();
        foreach (var device in _devices) device.Dispose();
        _flags.Dispose();
        _starts.Dispose();
    }

    /// <summary>A tensor over memory of ours, so that others see the same numbers, and may change them, while the step runs.</summary>
    private static OrtValue Shared(ScratchBuffer buffer, ReadOnlySpan<int> values)
    {
        var memory = (int*)buffer.Rent(values.Length * sizeof(int));
        values.CopyTo(new Span<int>(memory, values.Length));
        return OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Int32, [values.Length], (nint)memory, values.Length * sizeof(int));
    }

    private static OrtValue Ints(ReadOnlySpan<int> values, params ReadOnlySpan<long> shape)
    {
        var value = OrtValue.CreateAllocatedTensorValue(OrtAllocator.DefaultInstance, TensorElementType.Int32, shape.ToArray());
        values.CopyTo(value.GetTensorMutableDataAsSpan<int>());
        return value;
    }
}
