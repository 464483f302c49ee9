using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Speed;

/// <summary>Matrices of random weights one behind another on the GPU. All hold the same numbers: one is made, the others are copies at other addresses.</summary>
internal sealed unsafe class WeightStack : IDisposable
{
    private readonly CudaMemory _memory;
    private readonly WeightFormat _format;
    private readonly int _sections, _sectionRows, _columns;

    public WeightStack(CudaContext context, CudaStream stream, WeightFormat format, int sections, int sectionRows, int columns, int count)
    {
        (_format, _sections, _sectionRows, _columns, Count) = (format, sections, sectionRows, columns, count);
        using var one = RandomTensor.Weight(new Random(3), sections, sectionRows, columns, format, 4 / Math.Sqrt(columns));
        BytesOfOne = one.Length;
        _memory = context.Allocate(BytesOfOne * count);
        _memory.CopyFrom(one.Pointer, BytesOfOne, 0, stream);
        for (var i = 1; i < count; i++) _memory.CopyFrom(_memory, BytesOfOne, 0, i * BytesOfOne, stream);
        stream.Synchronize();
    }

    public int Count { get; }
    public long BytesOfOne { get; }

    /// <summary>All matrices, as a stack of experts.</summary>
    public PackedMatrix All => new(_format, (byte*)_memory.Address, (nint)Count * _sections * _sectionRows, _columns, _sectionRows);

    /// <summary>One of them.</summary>
    public PackedMatrix One(int index) => new(_format, (byte*)_memory.Address + index * BytesOfOne, (nint)_sections * _sectionRows, _columns, _sectionRows);

    public void Dispose() => _memory.Dispose();
}
