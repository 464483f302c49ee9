using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>
/// The keys and values of all sequences: one reserved range of addresses, per layer a pool of blocks of 128 positions. A block has the same number in every layer.
/// Pages are taken when a block is allocated and given back when it is freed. Used by the engine's thread only.
/// </summary>
internal sealed unsafe class KvCache : IDisposable
{
    private readonly VirtualMemory _memory;
    private readonly nint _layerBytes;
    private readonly Stack<int> _free = new();
    private readonly int _layerCount;

    public KvCache(KvBlockLayout layout, int layerCount, int blockCount)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(layerCount);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockCount);
        Layout = layout;
        BlockCount = blockCount;
        _layerCount = layerCount;
        _layerBytes = checked(layout.BlockBytes * blockCount);
        _memory = new VirtualMemory(checked((long)_layerBytes * layerCount));
        for (var block = blockCount - 1; block >= 0; block--) _free.Push(block);
    }

    public KvBlockLayout Layout { get; }
    public int BlockCount { get; }
    public int FreeBlockCount => _free.Count;

    /// <summary>Blocks that hold <paramref name="tokens"/> positions.</summary>
    public static int BlocksFor(int tokens) => (tokens + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;

    /// <summary>A layer's pool: [blocks, <see cref="KvBlockLayout.BlockBytes"/>].</summary>
    public byte* Layer(int layer) => _memory.Address + layer * _layerBytes;

    /// <exception cref="InsufficientMemoryException">The system has no pages left; the block stays free.</exception>
    public int Allocate()
    {
        var block = _free.Peek();
        for (var layer = 0; layer < _layerCount; layer++) _memory.Commit(layer * _layerBytes + block * Layout.BlockBytes, Layout.BlockBytes);
        _free.Pop();
        return block;
    }

    public void Free(int block)
    {
        for (var layer = 0; layer < _layerCount; layer++) _memory.Decommit(layer * _layerBytes + block * Layout.BlockBytes, Layout.BlockBytes);
        _free.Push(block);
    }

    public void Dispose() => _memory.Dispose();
}
