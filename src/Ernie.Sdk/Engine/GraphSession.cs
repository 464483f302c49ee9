using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>One ONNX Runtime session over an exported model, or some of its layers, with their cache bound once. One thread at a time.</summary>
internal sealed unsafe class GraphSession : IDisposable
{
    private static readonly Lock s_firstSession = new();
    private static volatile bool s_domainIsKnown;
    private readonly CustomOperatorDomain _domain;
    private readonly InferenceSession _session;
    private readonly List<(string Name, OrtValue Value)> _pools = [];
    private OrtIoBinding? _binding;

    /// <param name="folder">Of the export.</param>
    /// <param name="manifest">Of the export.</param>
    /// <param name="device">What computes. Where it has not all layers, the residual stream comes in, or goes out.</param>
    /// <param name="cache">Of all layers.</param>
    /// <param name="threadCount">Of ONNX Runtime's pool, the calling one included.</param>
    public GraphSession(string folder, ModelManifest manifest, StepDevice device, KvCache cache, int threadCount)
    {
        var layers = device.Layers;
        _domain = new CustomOperatorDomain(OperatorSchema.Domain, device.Operators);
        try
        {
            using var options = new SessionOptions
            {
                IntraOpNumThreads = threadCount,
                InterOpNumThreads = 1,
                ExecutionMode = ExecutionMode.ORT_SEQUENTIAL,
                // The graph is run as written: a fusion may change the order of a sum, and with it bits.
                GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
                // Every step has other shapes: a pattern or an arena would only keep the largest ones alive.
                EnableMemoryPattern = false,
                EnableCpuMemArena = false,
                LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            };
            // A step has a dozen parallel sections a layer: waking a thread for each costs a tenth of a decode step. Between steps nobody spins.
            options.AddSessionConfigEntry("session.intra_op.allow_spinning", "1");
            options.AddSessionConfigEntry("session.force_spinning_stop", "1");
            options.AddSessionConfigEntry("session.inter_op.allow_spinning", "0");
            _domain.AddTo(options);
            device.Configure(options);
            var model = Path.Combine(folder, ModelManifest.ModelFile);
            try
            {
                if (layers == new LayerRange(0, manifest.Config.LayerCount - 1))
                {
                    _session = Create(device, () => new InferenceSession(model, options));
                }
                else
                {
                    // A part of the graph is in no file, but its weights are where the whole graph's are.
                    options.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", folder);
                    var graph = ErnieGraph.Build(manifest.Config, manifest.Formats, layers: layers).Build(ModelManifest.WeightFile, manifest.Tensors.ToDictionary(static tensor => tensor.Name, static tensor => tensor.Offset, StringComparer.Ordinal), manifest.ProducerVersion);
                    _session = Create(device, () => new InferenceSession(graph, options));
                }
            }
            catch (OnnxRuntimeException e)
            {
                throw device.Explain(e) ?? new InvalidDataException($"{model} could not be loaded: {e.Message} Check it with 'ernie verify' or export the checkpoint again.", e);
            }
            device.SessionIsCreated();
            for (var layer = layers.First; layer <= layers.Last; layer++)
                _pools.Add((ErnieGraph.KvCache(layer), OrtValue.CreateTensorValueWithData(device.CacheMemory, TensorElementType.UInt8, [cache.BlockCount, cache.Layout.BlockBytes], (nint)cache.Layer(layer), (long)cache.Layout.BlockBytes * cache.BlockCount)));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Runs a step.</summary>
    /// <param name="options">Of the run.</param>
    /// <param name="inputs">All but the cache.</param>
    /// <param name="output">Where its one output goes.</param>
    /// <param name="debugOutputs">Further outputs of a debug export.</param>
    /// <returns>The debug outputs.</returns>
    public IReadOnlyList<OrtValue> Run(RunOptions options, ReadOnlySpan<(string Name, OrtValue Value)> inputs, (string Name, OrtValue Value) output, IReadOnlyList<string> debugOutputs)
    {
        OrtIoBinding? binding = null;
        try
        {
            // A run that fails may leave a binding without its inputs: it is kept again when it has run.
            (binding, _binding) = (_binding ?? Bind(), null);
            foreach (var (name, value) in inputs) binding.BindInput(name, value);
            binding.ClearBoundOutputs();
            binding.BindOutput(output.Name, output.Value);
            foreach (var debugOutput in debugOutputs) binding.BindOutputToDevice(debugOutput, OrtMemoryInfo.DefaultInstance);
            _session.RunWithBinding(options, binding);
            _binding = binding;
            return debugOutputs.Count == 0 ? [] : [.. binding.GetOutputValues().Skip(1)];
        }
        finally
        {
            if (_binding is null) binding?.Dispose();
        }
    }

    /// <summary>Runs a step that is captured.</summary>
    public void Run(RunOptions options, CapturedStep step)
    {
        if (step.Binding is null)
        {
            step.Binding = Bind();
            foreach (var (name, value) in step.Inputs) step.Binding.BindInput(name, value);
            step.Binding.BindOutput(ErnieGraph.Logits, step.Logits);
        }
        _session.RunWithBinding(options, step.Binding);
    }

    public void Dispose()
    {
        _binding?.Dispose();
        _session?.Dispose();
        _domain.Dispose();
        foreach (var (_, pool) in _pools) pool.Dispose();
    }

    /// <summary>With the cache, which stays where it is for all steps.</summary>
    private OrtIoBinding Bind()
    {
        var binding = _session.CreateIoBinding();
        foreach (var (name, pool) in _pools) binding.BindInput(name, pool);
        return binding;
    }

    private static InferenceSession Create(StepDevice device, Func<InferenceSession> create)
    {
        // The CPU's provider waits for nobody.
        return device.RunsAhead ? GraphCaptures.Without(() => CreateKnown(create)) : CreateKnown(create);
    }

    /// <summary>
    /// ONNX Runtime looks an operator domain up in a table of the process and adds it if it is missing, in two steps: of two first sessions at once, one fails. Once the domain is there, sessions
    /// can be created side by side.
    /// </summary>
    private static InferenceSession CreateKnown(Func<InferenceSession> create)
    {
        if (s_domainIsKnown) return create();
        lock (s_firstSession)
        {
            var session = create();
            s_domainIsKnown = true;
            return session;
        }
    }
}
