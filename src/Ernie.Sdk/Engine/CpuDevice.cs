using System.Runtime.InteropServices;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>Steps on the CPU.</summary>
internal sealed unsafe class CpuDevice : StepDevice
{
    private readonly OperatorEnvironment _environment;
    private readonly ExpertPrefetch? _prefetch;
    private readonly ScratchBuffer _logits = new();
    private readonly int _hidden;

    public CpuDevice(RunnerModel model, CpuKernels kernels, int threadCount, ExpertReading reading, LayerRange layers) : base(layers)
    {
        _hidden = model.Manifest.Config.HiddenSize;
        if (reading.IsOn && model.Load.Layers.Count > 0) _prefetch = new ExpertPrefetch(model.Load, NormRatios(model), reading.Ahead, reading.Measures, reading.MaxBytes);
        _environment = new OperatorEnvironment(kernels, model.Layout, model.Rope, threadCount, model.Load, _prefetch);
    }

    public override IEnumerable<CustomOperator> Operators => _environment.Operators();
    public override OrtMemoryInfo CacheMemory => OrtMemoryInfo.DefaultInstance;
    public override bool IsBrokenOff { set => _environment.IsBrokenOff = value; }
    public override long PrefetchedBytes => _prefetch?.AskedBytes ?? 0;
    public override KvMemory Reserve(long bytes) => new HostKvMemory(bytes);
    public override StepSampler Sampler(int vocabSize, IReadOnlyList<Range> undefinedRows, int threadCount) => new CpuSampler(this, vocabSize, undefinedRows, threadCount);

    public override OrtValue BindLogits(int rows, int vocabSize)
    {
        var bytes = checked((nint)rows * vocabSize * sizeof(float));
        return OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [rows, vocabSize], (nint)_logits.Rent(bytes), bytes);
    }

    public override ReadOnlySpan<float> ReadLogits(int firstRow, int rows, int vocabSize) => new((float*)_logits.Rent(0) + (nint)firstRow * vocabSize, checked(rows * vocabSize));

    public override OrtValue BindHidden(int tokens, nint landing) =>
        OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, TensorElementType.Float, [tokens, _hidden], landing, ResidualStream.DeviceBytes(tokens, _hidden));

    public override void Begin(StepBatch batch, LiveRows rows) => _environment.Rows = rows;

    // Its thread names pages that the session unmaps.
    public override void Stop() => _prefetch?.Dispose();

    public override void Dispose()
    {
        _environment.Dispose();
        _logits.Dispose();
    }

    /// <summary>For each mixture-of-experts layer but the first [hidden]: the weight of the norm before its experts over that of the layer before.</summary>
    private static float[][] NormRatios(RunnerModel model)
    {
        using var file = File.OpenHandle(Path.Combine(model.Folder, ModelManifest.WeightFile));
        var norms = model.Load.Layers.Select(layer =>
        {
            var name = TensorNames.PostAttentionNorm(layer.Layer);
            var weight = new float[model.Manifest.Config.HiddenSize];
            var bytes = MemoryMarshal.AsBytes(weight.AsSpan());
            var tensor = model.Manifest.Tensors.FirstOrDefault(tensor => tensor.Name == name);
            if (tensor is null || tensor.Bytes != bytes.Length || RandomAccess.Read(file, bytes, tensor.Offset) != bytes.Length)
                throw new InvalidDataException($"{model.Folder}: tensor {name} is missing or has not {weight.Length} floats. Export the checkpoint again.");
            return weight;
        }).ToArray();
        // Where the earlier norm is zero, what it hid is not known.
        return [[], .. norms.Zip(norms.Skip(1), static (before, after) => before.Zip(after, static (b, a) => b == 0 ? 0 : a / b).ToArray())];
    }
}
