using System.Runtime.InteropServices;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A session over a model's files with given operators, and a cache of its own in the provider's memory.</summary>
internal sealed class OperatorSession : IDisposable
{
    private const int Blocks = 8;
    private readonly CustomOperatorDomain _domain;
    private readonly InferenceSession? _session;
    private readonly OrtMemoryInfo? _memory;
    private readonly OrtAllocator? _allocator;
    private readonly List<OrtValue> _pools = [];

    /// <param name="model">The files.</param>
    /// <param name="operators">What computes.</param>
    /// <param name="provider">Devices of the provider that gets the operators' nodes; null for the CPU's.</param>
    public OperatorSession(LoadedRunner model, IEnumerable<CustomOperator> operators, IReadOnlyList<OrtEpDevice>? provider)
    {
        var config = model.Manifest.Config;
        var layout = new KvBlockLayout(KvElementType.Float32, config.KvHeadCount, config.HeadDim);
        _domain = new CustomOperatorDomain(OperatorSchema.Domain, operators);
        try
        {
            using var options = new SessionOptions { IntraOpNumThreads = 1, GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL, EnableMemoryPattern = false, EnableCpuMemArena = false, LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL };
            _domain.AddTo(options);
            if (provider is not null) options.AppendExecutionProvider(OrtEnv.Instance(), provider, new Dictionary<string, string>());
            _session = new InferenceSession(Path.Combine(model.Folder, ModelManifest.ModelFile), options);
            _memory = new OrtMemoryInfo(provider is null ? "Cpu" : "Cuda", OrtAllocatorType.DeviceAllocator, 0, OrtMemType.Default);
            _allocator = new OrtAllocator(_session, _memory);
            for (var layer = 0; layer < config.LayerCount; layer++) _pools.Add(OrtValue.CreateAllocatedTensorValue(_allocator, TensorElementType.UInt8, [Blocks, layout.BlockBytes]));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>As <see cref="LoadedRunner.Logits"/>.</summary>
    public float[] Logits(ReadOnlySpan<int> ids, params int[] chunks)
    {
        var table = Enumerable.Range(0, KvCache.BlocksFor(ids.Length)).ToList();
        var result = new List<float>();
        var batch = new StepBatch();
        for (int start = 0, c = 0; start < ids.Length; c++)
        {
            var count = Math.Min(ids.Length - start, chunks.Length == 0 ? ids.Length : chunks[Math.Min(c, chunks.Length - 1)]);
            batch.Clear();
            batch.Add(ids.Slice(start, count), start, table, count == 1 ? SequenceFlags.Decode : SequenceFlags.None, SparseLimits.Dense, count);
            result.AddRange(Run(batch));
            start += count;
        }
        return [.. result];
    }

    public void Dispose()
    {
        foreach (var pool in _pools) pool.Dispose();
        _allocator?.Dispose();
        _memory?.Dispose();
        _session?.Dispose();
        _domain.Dispose();
    }

    private float[] Run(StepBatch batch)
    {
        var tables = batch.BlockTables(out var width).ToArray();
        Dictionary<string, OrtValue> inputs = new()
        {
            [ErnieGraph.InputIds] = Ints(batch.InputIds, batch.TokenCount),
            [ErnieGraph.Positions] = Ints(batch.Positions, batch.TokenCount),
            [ErnieGraph.SequenceStarts] = Ints(batch.SequenceStarts, batch.SequenceCount + 1),
            [ErnieGraph.SequenceFlags] = Ints(batch.Flags, batch.SequenceCount),
            [ErnieGraph.BlockTables] = Ints(tables, batch.SequenceCount, width),
            [ErnieGraph.SparseLimits] = Ints(MemoryMarshal.Cast<SparseLimits, int>(CollectionsMarshal.AsSpan(batch.Limits)).ToArray(), batch.SequenceCount, SparseLimits.Count),
            [ErnieGraph.LogitRows] = Ints(batch.LogitRows, batch.LogitRows.Count),
        };
        using var binding = _session!.CreateIoBinding();
        try
        {
            foreach (var (name, value) in inputs) binding.BindInput(name, value);
            for (var layer = 0; layer < _pools.Count; layer++) binding.BindInput(ErnieGraph.KvCache(layer), _pools[layer]);
            binding.BindOutputToDevice(ErnieGraph.Logits, OrtMemoryInfo.DefaultInstance);
            using var runOptions = new RunOptions();
            _session.RunWithBinding(runOptions, binding);
            using var outputs = binding.GetOutputValues();
            return outputs[0].GetTensorDataAsSpan<float>().ToArray();
        }
        finally
        {
            foreach (var value in inputs.Values) value.Dispose();
        }
    }

    private static OrtValue Ints(IEnumerable<int> values, params long[] shape) => OrtValue.CreateTensorValueFromMemory(values.ToArray(), shape);
}
