using System.Runtime.InteropServices;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Ernie.Sdk.Engine;

/// <summary>A decode step that ONNX Runtime has captured as a CUDA graph, or will when it first runs: its inputs stay where they are, and what they hold is replaced.</summary>
/// <param name="id">ONNX Runtime's number of it.</param>
/// <param name="inputs">In device memory.</param>
/// <param name="logits">Likewise, [sequences, vocabulary].</param>
internal sealed class CapturedStep(int id, IReadOnlyList<(string Name, OrtValue Value)> inputs, OrtValue logits) : IDisposable
{
    public int Id => id;
    public IReadOnlyList<(string Name, OrtValue Value)> Inputs => inputs;
    public OrtValue Logits => logits;

    /// <summary>Whether it has run: it is replayed.</summary>
    public bool IsCaptured { get; set; }

    /// <summary>Everything bound, once it has run.</summary>
    public OrtIoBinding? Binding { get; set; }

    public void Dispose()
    {
        Binding?.Dispose();
        foreach (var (_, value) in inputs) value.Dispose();
        logits.Dispose();
    }
}

/// <summary>
/// Decode steps of a GPU that are replayed instead of launched kernel by kernel: one for each of some numbers of sequences, for the power of two of blocks that the longest of them has, and for those that select blocks or do
/// not, because which kernels are launched and with what geometry depends on these. All else that changes from step to step lies in device memory. Used by the engine's thread only.
/// </summary>
internal sealed unsafe class GpuGraphs(CudaContext context, CudaStream stream, OrtMemoryInfo memory, int mostBlocks) : IDisposable
{
    private const int Alignment = 256;
    private static readonly int[] s_sequences = [1, 2, 4, 8, 16];
    private readonly Dictionary<(int Sequences, int Blocks, bool IsDense), (CapturedStep Step, CudaMemory Numbers)> _steps = [];
    private CudaPinnedBuffer? _staging;
    private int _nextId = 1;

    /// <summary>The graph of a step, with the step's numbers asked to be copied to its inputs; null where there is none for such a step.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="bindLogits">Makes the tensor of its logits.</param>
    public CapturedStep? Of(StepBatch batch, Func<OrtValue> bindLogits)
    {
        var count = batch.SequenceCount;
        if (!s_sequences.Contains(count) || batch.TokenCount != count || batch.LogitRows.Count != count || batch.Flags.Exists(static flags => flags != (int)SequenceFlags.Decode)) return null;
        var tables = batch.BlockTables(out var width);
        var blocks = Math.Min(mostBlocks, (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)width));
        if (width > blocks) return null;
        var wide = new int[count * blocks];
        wide.AsSpan().Fill(-1);
        for (var s = 0; s < count; s++) tables.AsSpan(s * width, width).CopyTo(wide.AsSpan(s * blocks));
        (string Name, int[] Numbers, long[] Shape)[] inputs =
        [
            (ErnieGraph.InputIds, [.. batch.InputIds], [count]), (ErnieGraph.Positions, [.. batch.Positions], [count]), (ErnieGraph.SequenceStarts, [.. batch.SequenceStarts], [count + 1]),
            (ErnieGraph.SequenceFlags, [.. batch.Flags], [count]), (ErnieGraph.BlockTables, wide, [count, blocks]),
            (ErnieGraph.SparseLimits, MemoryMarshal.Cast<SparseLimits, int>(CollectionsMarshal.AsSpan(batch.Limits)).ToArray(), [count, SparseLimits.Count]), (ErnieGraph.LogitRows, [.. batch.LogitRows], [count]),
        ];
        var offsets = new long[inputs.Length + 1];
        for (var i = 0; i < inputs.Length; i++) offsets[i + 1] = offsets[i] + (inputs[i].Numbers.Length * sizeof(int) + Alignment - 1) / Alignment * Alignment;
        var bytes = offsets[^1];
        var key = (count, blocks, batch.IsDense(SequenceFlags.Decode));
        if (!_steps.TryGetValue(key, out var found))
        {
            var numbers = context.Allocate(bytes);
            try
            {
                // First, because it may have all graphs forgotten, and may have no memory.
                var logits = bindLogits();
                var values = inputs.Select((input, i) => (input.Name, OrtValue.CreateTensorValueWithData(memory, TensorElementType.Int32, input.Shape, numbers.Address + (nint)offsets[i], input.Numbers.Length * sizeof(int)))).ToList();
                _steps.Add(key, found = (new CapturedStep(_nextId++, values, logits), numbers));
            }
            catch
            {
                numbers.Dispose();
                throw;
            }
        }
        if (_staging is null || _staging.Bytes < bytes)
        {
            _staging?.Dispose();
            _staging = null;
            _staging = new CudaPinnedBuffer(context, bytes);
        }
        for (var i = 0; i < inputs.Length; i++) inputs[i].Numbers.CopyTo(new Span<int>(_staging.Address + offsets[i], inputs[i].Numbers.Length));
        found.Numbers.CopyFrom(_staging.Address, bytes, stream: stream);
        return found.Step;
    }

    /// <summary>Something that the graphs name has moved: they are captured anew.</summary>
    public void Forget()
    {
        foreach (var (step, numbers) in _steps.Values)
        {
            step.Dispose();
            numbers.Dispose();
        }
        _steps.Clear();
    }

    /// <summary>Before the session.</summary>
    public void Dispose()
    {
        Forget();
        _staging?.Dispose();
        _staging = null;
    }
}
