using System.Diagnostics;
using System.Globalization;
using System.Numerics;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.Extensions.Logging;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Steps on one GPU, or the part of them that its layers are: ONNX Runtime's CUDA provider computes what is plain ONNX, the operators are ours, and both ask for it on one stream, which is ours. Weights, cache and what passes
/// between operators stay on the GPU; the numbers of a step go there and tokens come back.
/// </summary>
internal sealed unsafe class GpuDevice : StepDevice
{
    private readonly GpuChoice _choice;
    private readonly CudaDevice _gpu;
    private readonly int _number;
    private readonly CudaContext? _context;
    private readonly CudaStream? _stream;
    private readonly CudaModules? _modules;
    private readonly CudaExpertChoices? _choices;
    private readonly CudaHostExperts? _hostExperts;
    private readonly CudaOperatorEnvironment? _environment;
    private readonly ResidualStream? _incoming;
    private readonly int _hidden;
    private readonly bool _isLast;
    private CudaMemory? _outgoing; // [tokens, hidden] float, for the next device
    private CudaMemory? _logits;
    private float[] _read = [];
    private GpuSampler? _sampler;
    private readonly long _providerBytes;
    private bool _isLoaded;
    private bool _isUnderWay; // a step was asked for, and nobody has waited for it
    private StepBatch? _batch;
    private readonly GpuGraphs? _graphs;
    private (int, nint) _places;
    private bool _hasGivenUpGraphs;

    /// <param name="choice">The GPUs.</param>
    /// <param name="number">Which of them this is.</param>
    /// <param name="model">What is computed.</param>
    /// <param name="kernels">What computes experts that stay on the CPU.</param>
    /// <param name="threadCount">Threads of that.</param>
    /// <param name="capturesSteps">Whether decode steps are captured as CUDA graphs. Steps that another device has a part in are not.</param>
    /// <param name="overlaps">Whether kernels may begin while the ones before them end (<see cref="CudaModules.Overlaps"/>).</param>
    /// <param name="sent">Told of the bytes of each weight that was sent; what it throws ends loading. Null: nobody is.</param>
    /// <param name="between">Puts kernels of a measurement between the operators and these; null: none.</param>
    /// <exception cref="ErnieDeviceException">The GPU's memory is full, or it does not answer.</exception>
    public GpuDevice(GpuChoice choice, int number, RunnerModel model, CpuKernels kernels, int threadCount, bool capturesSteps, bool overlaps, Action<long>? sent = null, Func<CudaKernels, CudaKernels>? between = null)
        : base(choice.Plan.Gpus[number].Layers)
    {
        (_choice, _gpu, _number) = (choice, choice.Devices[number], number);
        var config = model.Manifest.Config;
        (_hidden, _isLast) = (config.HiddenSize, Layers.Last == config.LayerCount - 1);
        // A context that is shorter than planned takes less.
        var step = choice.Step with { Positions = Math.Min(choice.Step.Positions, model.Rope.PositionCount) };
        var workspace = GpuWorkspace.For(config, ErnieGraph.Build(config, model.Manifest.Formats).Weights, model.Layout.ElementType, step);
        var hostExperts = choice.Plan.CpuExperts.Where(pair => Layers.Contains(pair.Key)).ToDictionary();
        _providerBytes = ProviderWeights(model.Manifest, Layers) + workspace.ProviderBytes;
        var limit = choice.IsLimited ? new CudaMemoryLimit(choice.Plan.Gpus[number].CapacityBytes - _providerBytes) : null;
        var making = "context";
        try
        {
            _context = _gpu.Retain(limit);
            CacheMemory = new OrtMemoryInfo("Cuda", OrtAllocatorType.DeviceAllocator, _gpu.Ordinal, OrtMemType.Default);
            _stream = _context.CreateStream();
            making = "kernels";
            _modules = new CudaModules(_context) { Overlaps = overlaps };
            _modules.Compile("norm", "linear", "attention", "experts", "sampling");
            making = "table of rotary angles";
            _choices = new CudaExpertChoices(_context, model.Load);
            if (hostExperts.Count > 0)
            {
                _hostExperts = new CudaHostExperts(_context, hostExperts, kernels, threadCount, config.HiddenSize, model.Load);
                _hostExperts.Reserve(step.Tokens);
            }
            if (Layers.First > 0) _incoming = new ResidualStream(_context, config.HiddenSize);
            ReserveHidden(step.Tokens);
            _environment = new CudaOperatorEnvironment(_gpu, between is null ? new PtxKernels(_modules) : between(new PtxKernels(_modules)), model.Layout, model.Rope, _choices, hostExperts: _hostExperts, limit: limit) { Sent = sent };
            making = "workspace";
            // At once, so that no step allocates.
            _environment.Reserve(workspace.OperatorBytes);
            _choices.Begin(step.Tokens);
            if (_isLast) _logits = _context.Allocate(workspace.LogitBytes);
            if (capturesSteps && _hostExperts is null && _isLast && Layers.First == 0) _graphs = new GpuGraphs(_context, _stream, CacheMemory, step.Blocks);
        }
        catch (CudaException e)
        {
            Dispose();
            throw Refusal(e, making);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The devices of a model that GPUs have a part of: the CPU, if it has the first layers, and the GPUs.</summary>
    /// <param name="choice">The GPUs.</param>
    /// <param name="model">What is computed.</param>
    /// <param name="kernels">What computes on the CPU.</param>
    /// <param name="options">How.</param>
    /// <param name="logger">Told of experts that change places, and of graphs that are given up; null: nobody is.</param>
    /// <param name="progress">Told of weights that were sent; may be null.</param>
    /// <param name="cancellationToken">Ends sending.</param>
    /// <exception cref="ErnieDeviceException">A GPU's memory is full, or it does not answer.</exception>
    public static IReadOnlyList<StepDevice> All(GpuChoice choice, RunnerModel model, CpuKernels kernels, ErnieModelOptions options, ILogger? logger, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var (started, sent) = (Stopwatch.GetTimestamp(), 0L);
        void Send(long bytes)
        {
            cancellationToken.ThrowIfCancellationRequested();
            sent += bytes;
            progress?.Report(new ErnieProgress(choice.Devices.Count == 1 ? "sending weights to the GPU" : "sending weights to the GPUs", sent, model.Manifest.WeightBytes, Stopwatch.GetElapsedTime(started)));
        }

        var threads = options.Threads ?? Environment.ProcessorCount;
        var devices = new List<StepDevice>();
        try
        {
            if (choice.Plan.CpuLayers.Count > 0) devices.Add(new CpuDevice(model, kernels, threads, default, new LayerRange(0, choice.Plan.CpuLayers.Count - 1)));
            for (var gpu = 0; gpu < choice.Devices.Count; gpu++)
                devices.Add(new GpuDevice(choice, gpu, model, kernels, threads, options.CudaGraphs, options.CudaOverlap, Send) { Observer = options.Observer, Logger = logger });
            return devices;
        }
        catch
        {
            foreach (var device in devices) device.Dispose();
            throw;
        }
    }

    /// <summary>Told of every step; null: nobody is.</summary>
    public StepObserver? Observer { get; init; }

    /// <summary>Told of experts that change places, and of graphs that are given up; null: nobody is.</summary>
    public ILogger? Logger { get; init; }

    public override IEnumerable<CustomOperator> Operators => _environment!.Operators();

    public override bool IsBrokenOff
    {
        set
        {
            if (_hostExperts is not null) _hostExperts.IsBrokenOff = value;
        }
    }

    public override OrtMemoryInfo CacheMemory { get; }

    public override nint Landing => _incoming!.Landing;

    public override OrtValue Receive(int tokens)
    {
        OrtValue? hidden = null;
        Try(() => hidden = _incoming!.Send(tokens, CacheMemory, _stream!));
        return hidden!;
    }

    public override OrtValue BindHidden(int tokens, nint landing) =>
        OrtValue.CreateTensorValueWithData(CacheMemory, TensorElementType.Float, [tokens, _hidden], _outgoing!.Address, ResidualStream.DeviceBytes(tokens, _hidden));

    public override KvMemory Reserve(long bytes)
    {
        try
        {
            var memory = new DeviceKvMemory(_context!, bytes, CopyFailure);
            _environment!.Cache = ((nint)memory.At(0), (nint)memory.At((nint)bytes));
            return memory;
        }
        catch (CudaException e)
        {
            throw Refusal(e, string.Create(CultureInfo.InvariantCulture, $"KV cache of {bytes:N0} bytes"));
        }
    }

    /// <summary>[rows, vocabulary] of the last step, device memory.</summary>
    public nint LogitsAddress => _logits!.Address;

    public override OrtValue BindLogits(int rows, int vocabSize)
    {
        var bytes = checked((long)rows * vocabSize * sizeof(float));
        // A step without logits has an output without elements, which must have an address still.
        if (_logits is null || _logits.Bytes < bytes)
        {
            Try(() =>
            {
                _graphs?.Forget();
                _logits?.Dispose();
                _logits = null;
                _logits = _context!.Allocate(Math.Max(bytes, (long)vocabSize * sizeof(float)));
            });
        }
        return OrtValue.CreateTensorValueWithData(CacheMemory, TensorElementType.Float, [rows, vocabSize], _logits!.Address, bytes);
    }

    public override ReadOnlySpan<float> ReadLogits(int firstRow, int rows, int vocabSize)
    {
        var count = checked(rows * vocabSize);
        if (_read.Length < count) _read = new float[count];
        Try(() =>
        {
            fixed (float* target = _read)
            {
                if (count > 0) _logits!.CopyTo(target, (long)count * sizeof(float), (long)firstRow * vocabSize * sizeof(float), _stream);
                WaitAndCount();
            }
        });
        return _read.AsSpan(0, count);
    }

    public override StepSampler Sampler(int vocabSize, IReadOnlyList<Range> undefinedRows, int threadCount) => _sampler ??= new GpuSampler(this, _context!, _stream!, _modules!, vocabSize, undefinedRows);

    public override void Configure(SessionOptions options)
    {
        // What the provider has no kernel for would be computed on the CPU in silence, with copies there and back.
        options.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1");
        try
        {
            var settings = new Dictionary<string, string>
            {
                ["device_id"] = _gpu.Ordinal.ToString(CultureInfo.InvariantCulture),
                // Addresses of one stream: what our operators ask for comes after what the provider's asked for.
                ["has_user_compute_stream"] = "1",
                ["user_compute_stream"] = ((nuint)_stream!.Handle).ToString(CultureInfo.InvariantCulture),
                // The default doubles what it takes each time.
                ["arena_extend_strategy"] = "kSameAsRequested",
            };
            if (_graphs is not null) settings.Add("enable_cuda_graph", "1");
            if (_choice.IsLimited) settings.Add("gpu_mem_limit", _providerBytes.ToString(CultureInfo.InvariantCulture));
            _choice.Installation.Append(options, settings);
        }
        catch (OnnxRuntimeException e)
        {
            throw new ErnieDeviceException(new CudaPiece("ONNX Runtime package", CudaPieceState.Unfit, $"its CUDA provider does not start: {e.Message.TrimEnd('.')}", Cure: "'ernie doctor' checks what it needs."), e);
        }
    }

    public override void SessionIsCreated()
    {
        _environment!.EndUpload();
        _isLoaded = true;
    }

    public override void Begin(StepBatch batch, LiveRows rows)
    {
        // A step whose tokens could not be chosen may be under way still. Its inputs are written anew, and what it passes on may move.
        Wait();
        _batch = batch;
        var decodes = batch.Flags.Count(static flags => (flags & (int)SequenceFlags.Decode) != 0);
        _environment!.BeginStep(decodes == 0 ? CudaStepKind.Prefill : decodes == batch.Flags.Count && decodes == batch.TokenCount ? CudaStepKind.Decode : CudaStepKind.Mixed,
            batch.IsDense(SequenceFlags.None), batch.IsDense(SequenceFlags.Decode));
        if (_hostExperts is not null) _hostExperts.Rows = rows;
        Try(() =>
        {
            // What ONNX Runtime allocates before the first of our operators counts as this thread's too.
            _context!.Enter();
            ReserveHidden(batch.TokenCount);
            _choices!.Begin(batch.TokenCount);
        });
    }

    public override bool CapturesSteps => _graphs is not null;

    public override bool HasGivenUpGraphs => _hasGivenUpGraphs;

    public override void GiveUpGraphs(Exception reason)
    {
        _hasGivenUpGraphs = true;
        // What they hold is the GPU's still to read, if it got so far.
        Try(_stream!.Synchronize);
        _graphs!.Forget();
        if (Logger is not null) DeviceLog.GraphsGivenUp(Logger, reason.InnerException?.Message ?? reason.Message);
    }

    public override CapturedStep? Captured(StepBatch batch, int vocabSize)
    {
        if (_graphs is null || _hasGivenUpGraphs) return null;
        try
        {
            if (_places != _environment!.Places) _graphs.Forget();
            _places = _environment.Places;
            var captured = _graphs.Of(batch, () => BindLogits(batch.LogitRows.Count, vocabSize));
            if (captured is not null) _choices!.AskAll();
            return captured;
        }
        catch (CudaException e) when (e.IsOutOfMemory)
        {
            // What a graph reads has no room: an ordinary step needs none.
            GiveUpGraphs(e);
            return null;
        }
        catch (CudaException e)
        {
            throw StepFailure(false, e);
        }
    }

    public override void Stop()
    {
        _graphs?.Dispose();
    }

    public override bool RunsAhead => true;

    public override void Wait()
    {
        if (_isUnderWay) Try(WaitAndCount);
    }

    /// <summary>Waits for all that was asked of the GPU, and counts the routers' choices, which came with it.</summary>
    public void WaitAndCount()
    {
        _stream!.Synchronize();
        _choices!.Count();
        if (_isUnderWay) _environment!.EndStep();
        _isUnderWay = false;
    }

    public override void End(nint landing) => Try(() =>
    {
        _isUnderWay = true;
        _choices!.End(_stream!);
        if (landing != 0 && _batch!.TokenCount > 0) _outgoing!.CopyTo((void*)landing, ResidualStream.DeviceBytes(_batch.TokenCount, _hidden), stream: _stream);
        // Of the last layers nobody waits here: whoever wants the tokens does.
        if (landing == 0 && Observer is null && _hostExperts?.Slots is null) return;
        WaitAndCount();
        Observer?.Invoke(_batch!, Layers, _choices.Last);
        if (_hostExperts?.Slots is not { } slots || !slots.End(_choices, _stream!) || Logger is null) return;
        // At first there are many: the 1st, 2nd, 4th, 8th .. is told of.
        var residency = slots.Residency;
        if (BitOperations.IsPow2(residency.MoveCount)) DeviceLog.ExpertsMoved(Logger, _choice.Devices.Count == 1 ? "the GPU" : string.Create(CultureInfo.InvariantCulture, $"GPU {_number}"), residency.MoveCount, residency.Share());
    });

    public override void Abandon()
    {
        try
        {
            _stream!.Synchronize();
        }
        catch (CudaException)
        {
            // A GPU that does not answer computes and copies nothing any more.
        }
    }

    public override Exception? Explain(OnnxRuntimeException reported) => _environment!.Failure switch
    {
        CudaException e => _isLoaded ? StepFailure(e.IsOutOfMemory, e) : Refusal(e, "model's weights"),
        InsufficientMemoryException e => StepFailure(true, e),
        // As on the CPU, where the text is enough.
        InvalidDataException or ArgumentException => null,
        { } other => other,
        null when IsOutOfMemory(reported.Message) => _isLoaded ? StepFailure(true, reported) : new ErnieDeviceException(MemoryPiece("memory that ONNX Runtime keeps there"), reported),
        null when reported.Message.Contains("disable", StringComparison.Ordinal) && reported.Message.Contains("fallback", StringComparison.Ordinal) =>
            new ErnieDeviceException(new CudaPiece("ONNX Runtime package", CudaPieceState.Unfit, "its CUDA provider has no kernel for a node of the graph", Cure: "Use Microsoft.ML.OnnxRuntime.Gpu 1.31.0, and export the checkpoint again if an earlier version of Ernie.Sdk did."), reported),
        // What a launch did wrong, ONNX Runtime meets when it next asks the GPU for something.
        null when _isLoaded && reported.Message.Contains("CUDA", StringComparison.Ordinal) => StepFailure(false, reported),
        null => null,
    };

    public override void Dispose()
    {
        // Copies of routers' choices and of experts are waited for by the next step only.
        if (_stream is not null) Abandon();
        _environment?.Dispose();
        _hostExperts?.Dispose();
        _incoming?.Dispose();
        _outgoing?.Dispose();
        _sampler?.Dispose();
        _logits?.Dispose();
        _choices?.Dispose();
        _modules?.Dispose();
        _stream?.Dispose();
        CacheMemory?.Dispose();
        _context?.Dispose();
    }

    /// <summary>Weights of nodes that are not ours, which ONNX Runtime copies to the GPU itself: the table that tokens are looked up in, and gates.</summary>
    private static long ProviderWeights(ModelManifest manifest, LayerRange layers)
    {
        var here = ErnieGraph.Build(manifest.Config, manifest.Formats, layers: layers).Weights.Select(static weight => weight.Name).ToHashSet(StringComparer.Ordinal);
        bool IsTheirs(string name) => (name == TensorNames.Embedding && layers.First == 0) || name.EndsWith(".attn_gate.weight", StringComparison.Ordinal);
        return manifest.Tensors.Where(tensor => here.Contains(tensor.Name) && IsTheirs(tensor.Name)).Sum(static tensor => tensor.Bytes);
    }

    /// <summary>Makes room for what comes from another device and goes to one.</summary>
    private void ReserveHidden(int tokens)
    {
        _incoming?.Reserve(tokens);
        var bytes = ResidualStream.DeviceBytes(tokens, _hidden);
        if (_isLast || _outgoing?.Bytes >= bytes) return;
        _outgoing?.Dispose();
        _outgoing = null;
        _outgoing = _context!.Allocate(bytes);
    }

    private static bool IsOutOfMemory(string message) =>
        message.Contains("out of memory", StringComparison.OrdinalIgnoreCase) || message.Contains("allocate memory", StringComparison.OrdinalIgnoreCase) || message.Contains("Available memory of", StringComparison.Ordinal);

    /// <summary>Makes of what the driver reports in a step an exception that says so.</summary>
    internal void Try(Action call)
    {
        try
        {
            call();
        }
        catch (CudaException e)
        {
            throw StepFailure(e.IsOutOfMemory, e);
        }
    }

    /// <summary>A step failed; the next one may well not, if it was for memory.</summary>
    private Exception StepFailure(bool isMemory, Exception inner) => isMemory
        ? new InsufficientMemoryException($"{Describe()} has no memory left for this step. Set a smaller ErnieModelOptions.PrefillChunkTokens, MaxConcurrentRequests or KvCacheBytes{(_choice.IsLimited ? ", or a larger GpuMemoryBytes" : "")}.", inner)
        : Failure("failed in a step", inner);

    private InvalidOperationException CopyFailure(CudaException inner) => Failure("failed to copy a part of the KV cache", inner);

    private InvalidOperationException Failure(string what, Exception inner) =>
        new($"{Describe()} {what}: {inner.Message.TrimEnd('.')}. Load the model again; if it happens there too, nvidia-smi and the system's log may say why.", inner);

    private ErnieDeviceException Refusal(CudaException e, string what) => e.IsOutOfMemory
        ? new ErnieDeviceException(MemoryPiece(what), e)
        : new ErnieDeviceException(new CudaPiece("GPU", CudaPieceState.Unfit, $"{e.Message}, about the {what}", Cure: "nvidia-smi and the system's log may say why. After an update of the driver, restart the machine."), e);

    private CudaPiece MemoryPiece(string what) => new(DeviceChoice.MemoryName, CudaPieceState.Unfit, $"{Describe()} has no room for the {what}",
        Cure: "Export to fewer bits, set a smaller KvCacheBytes or ContextLength, or use another GPU; 'ernie plan' says what fits, nvidia-smi lists who else uses the GPU.");

    private string Describe() => _choice.Describe(_number);
}
