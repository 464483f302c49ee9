using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>
/// Experts of layers that are partly on a GPU: what lies in the GPU's slots, and the copies that replace an expert by one that is used more, between two steps. Weights are never changed, so nothing is copied back. Used by
/// the engine's thread only.
/// </summary>
internal sealed unsafe class CudaExpertSlots : IDisposable
{
    private readonly CudaContext _context;
    private readonly ExpertLoad _load;
    private readonly Node?[] _nodes;
    private CudaPinnedBuffer? _staging; // a layer's map without the expert that leaves, and with the one that comes; that one's gate|up and down

    public CudaExpertSlots(CudaContext context, ExpertLoad load)
    {
        (_context, _load, _nodes) = (context, load, new Node?[load.Layers.Count]);
        Residency = new ExpertResidency(load.Layers.Count, load.ExpertCount);
    }

    public ExpertResidency Residency { get; }

    /// <summary>Copies between two steps may go to a layer's slots from now on.</summary>
    /// <param name="layer">Place among the mixture-of-experts layers, that <see cref="Residency"/> knows.</param>
    /// <param name="cpu">All experts, in the CPU's memory, where they stay.</param>
    /// <param name="gpu">The slots, in device memory, and their map, which is as <see cref="ExpertResidency.SlotsOf"/>.</param>
    public void Add(int layer, in ExpertsArguments cpu, in ExpertsArguments gpu)
    {
        var node = new Node(cpu, gpu);
        if (_staging is null || _staging.Bytes < node.StagingBytes)
        {
            _staging?.Dispose();
            _staging = null;
            _staging = new CudaPinnedBuffer(_context, node.StagingBytes);
        }
        _nodes[layer] = node;
    }

    /// <summary>
    /// Counts the choices of a step that is over, and moves one expert of all layers at most: its copy takes a small part of the time of a step in which the CPU computes some. It is done before the next step's kernels run.
    /// </summary>
    /// <param name="choices">Of the step.</param>
    /// <param name="stream">The step's. It has done all that was asked of it.</param>
    /// <returns>Whether an expert moves.</returns>
    /// <exception cref="CudaException">Experts and maps are those of before, or a slot is empty and its expert the CPU's: the next step may run.</exception>
    public bool End(CudaExpertChoices choices, CudaStream stream)
    {
        Residency.BeginStep();
        for (var layer = 0; layer < _nodes.Length; layer++)
        {
            if (choices.Counted(layer) is { Length: > 0 } selected) _load.Layers[layer].AddBeside(Residency.Count(layer, selected));
        }
        if (Residency.Next() is not { } move) return false;
        Move(move, stream);
        return true;
    }

    public void Dispose() => _staging?.Dispose();

    private void Move(in ExpertMove move, CudaStream stream)
    {
        var node = _nodes[move.Layer]!;
        var without = new Span<int>(_staging!.Address, _load.ExpertCount);
        var with = new Span<int>(_staging.Address + _load.ExpertCount * sizeof(int), _load.ExpertCount);
        var gateUp = _staging.Address + 2 * _load.ExpertCount * sizeof(int);
        var down = gateUp + node.GateUpBytes;
        Residency.SlotsOf(move.Layer).CopyTo(without);
        if (move.Replaced >= 0)
        {
            // Nobody looks into the slot from here on, whatever fails.
            without[move.Replaced] = -1;
            Send<int>(without, node.Map, stream);
        }
        Residency.Leave(move);
        Buffer.MemoryCopy(node.GateUpOf(move.Expert), gateUp, node.GateUpBytes, node.GateUpBytes);
        Buffer.MemoryCopy(node.DownOf(move.Expert), down, node.DownBytes, node.DownBytes);
        Send(new ReadOnlySpan<byte>(gateUp, node.GateUpBytes), node.GateUpIn(move.Slot), stream);
        Send(new ReadOnlySpan<byte>(down, node.DownBytes), node.DownIn(move.Slot), stream);
        without.CopyTo(with);
        with[move.Expert] = move.Slot;
        Send<int>(with, node.Map, stream);
        Residency.Arrive(move);
        _load.Layers[move.Layer].AddMove();
    }

    private void Send<T>(ReadOnlySpan<T> source, void* target, CudaStream stream) where T : unmanaged
    {
        _context.Enter();
        fixed (T* address = source) _context.Driver.Check(_context.Driver.MemcpyHtoDAsync((nint)target, address, (nuint)source.Length * (nuint)sizeof(T), stream.Handle), "cuMemcpyHtoDAsync");
    }

    /// <summary>Where a layer's weights are.</summary>
    private sealed class Node(ExpertsArguments cpu, ExpertsArguments gpu)
    {
        public int GateUpBytes { get; } = checked((int)cpu.GateUp.Format.Bytes(2, cpu.IntermediateSize, cpu.HiddenSize));
        public int DownBytes { get; } = checked((int)cpu.Down.Format.Bytes(1, cpu.HiddenSize, cpu.IntermediateSize));
        public long StagingBytes => (long)GateUpBytes + DownBytes + 2L * sizeof(int) * cpu.ExpertCount;
        public int* Map => gpu.Slots;
        public byte* GateUpOf(int expert) => Part(cpu.GateUp, expert - cpu.ExpertBegin, 2 * cpu.IntermediateSize);
        public byte* DownOf(int expert) => Part(cpu.Down, expert - cpu.ExpertBegin, cpu.HiddenSize);
        public byte* GateUpIn(int slot) => Part(gpu.GateUp, slot, 2 * gpu.IntermediateSize);
        public byte* DownIn(int slot) => Part(gpu.Down, slot, gpu.HiddenSize);
        private static byte* Part(in PackedMatrix stack, int index, int rows) => stack.Slice((nint)index * rows, rows).Data;
    }
}
