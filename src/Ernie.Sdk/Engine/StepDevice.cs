using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Engine;

/// <summary>What a device must know of the model that it computes.</summary>
/// <param name="Folder">Of the export.</param>
/// <param name="Manifest">Of the export.</param>
/// <param name="Layout">Blocks of the cache.</param>
/// <param name="Rope">Rotary angles of every position that the cache can hold.</param>
/// <param name="Load">Counts the routers' choices.</param>
internal sealed record RunnerModel(string Folder, ModelManifest Manifest, KvBlockLayout Layout, RopeTable Rope, ExpertLoad Load);

/// <summary>Told of layers of a step that a GPU has computed, on the engine's thread.</summary>
/// <param name="batch">The step.</param>
/// <param name="layers">The GPU's layers.</param>
/// <param name="selected">[mixture-of-experts layers, tokens, experts per token] what the routers chose; zeros in other layers.</param>
internal delegate void StepObserver(StepBatch batch, LayerRange layers, ReadOnlySpan<int> selected);

/// <summary>What a runner's steps are computed on, or the part of them that some layers are: the operators, the memory of the cache, and what stands around a step. Used by the engine's thread only.</summary>
/// <remarks>Several devices compute a step one after another, each some layers. The residual stream goes from each to the next, which is a GPU: it lands in memory of this process that the next one has for it.</remarks>
/// <param name="layers">Which layers are computed here. The first of the model has the embedding before it, the last one the head behind it.</param>
internal abstract unsafe class StepDevice(LayerRange layers) : IDisposable
{
    public LayerRange Layers => layers;

    /// <summary>Those of the graph, one of a name.</summary>
    public abstract IEnumerable<CustomOperator> Operators { get; }

    /// <summary>Where the operators find the cache.</summary>
    public abstract OrtMemoryInfo CacheMemory { get; }

    /// <summary>Memory for the cache of these layers.</summary>
    public abstract KvMemory Reserve(long bytes);

    /// <summary>[tokens, hidden] in this process' memory: where the device before leaves the residual stream of the step that has begun.</summary>
    public virtual nint Landing => throw new NotSupportedException("This device has the model's first layer.");

    /// <summary>The residual stream that has landed, [tokens, hidden], where the operators find it. The caller disposes the tensor.</summary>
    public virtual OrtValue Receive(int tokens) => throw new NotSupportedException("This device has the model's first layer.");

    /// <summary>Where the operators leave the residual stream, [tokens, hidden]. The caller disposes the tensor.</summary>
    /// <param name="tokens">Of the step.</param>
    /// <param name="landing">The next device's.</param>
    public abstract OrtValue BindHidden(int tokens, nint landing);

    /// <summary>Memory for a step's logits, [rows, vocabulary], of the device; valid until the next call. The caller disposes the tensor.</summary>
    public abstract OrtValue BindLogits(int rows, int vocabSize);

    /// <summary>Some rows of the logits of the step that was computed, in the CPU's memory; valid until the next call or step.</summary>
    public abstract ReadOnlySpan<float> ReadLogits(int firstRow, int rows, int vocabSize);

    /// <summary>What chooses tokens from the logits of steps. It lives as long as the device.</summary>
    public abstract StepSampler Sampler(int vocabSize, IReadOnlyList<Range> undefinedRows, int threadCount);

    public virtual void Configure(SessionOptions options)
    {
    }

    /// <summary>All kernels are created: what only that needs may go.</summary>
    public virtual void SessionIsCreated()
    {
    }

    /// <summary>A step begins.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="rows">Which of its tokens are wanted, which may change while it runs.</param>
    public abstract void Begin(StepBatch batch, LiveRows rows);

    /// <summary>The graph that a step is captured as, with the step's numbers in its inputs; null where it is none. In place of <see cref="BindLogits"/>, after <see cref="Begin"/>.</summary>
    public virtual CapturedStep? Captured(StepBatch batch, int vocabSize) => null;

    /// <summary>Whether runs say if they are captured.</summary>
    public virtual bool CapturesSteps => false;

    /// <summary>Whether <see cref="GiveUpGraphs"/> was called: all steps are ordinary ones.</summary>
    public virtual bool HasGivenUpGraphs => false;

    /// <summary>A step could not be captured or replayed, for a reason that is logged.</summary>
    public virtual void GiveUpGraphs(Exception reason)
    {
    }

    /// <summary>These layers of a step were computed.</summary>
    /// <param name="landing">The next device's, where the residual stream lies afterwards; 0 where there is none.</param>
    public virtual void End(nint landing)
    {
    }

    /// <summary>Whether a session's run returns before what it has asked for is done.</summary>
    public virtual bool RunsAhead => false;

    /// <summary>Waits for the step that was computed last. Choosing tokens and reading logits do so too, and so does the next step before it begins.</summary>
    public virtual void Wait()
    {
    }

    /// <summary>A step that has begun will not end: it failed, or was broken off. Afterwards nothing of it is under way.</summary>
    public virtual void Abandon()
    {
    }

    /// <summary>Makes the running step end early, with an exception, or lets the next one run. Any thread may set it.</summary>
    public virtual bool IsBrokenOff
    {
        set { }
    }

    /// <summary>Bytes of experts' weights that the system was asked to read ahead.</summary>
    public virtual long PrefetchedBytes => 0;

    /// <summary>The device's own reason for what ONNX Runtime reports as a failed session or step; null where it has none.</summary>
    public virtual Exception? Explain(OnnxRuntimeException reported) => null;

    /// <summary>Ends what runs beside steps and reads the session's memory. Once, before the session is disposed.</summary>
    public virtual void Stop()
    {
    }

    /// <summary>Last, after <see cref="Stop"/>, the session and the cache.</summary>
    public abstract void Dispose();
}
