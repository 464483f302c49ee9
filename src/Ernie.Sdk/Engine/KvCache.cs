using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>
/// The keys and values of all sequences: reserved memory, per layer a pool of blocks of 128 positions. A block has the same number in every layer.
/// On the CPU, pages are taken when a block is allocated and given back when it is freed. Used by the engine's thread only.
/// </summary>
/// <remarks>
/// Contexts share blocks: each holder counts. A full block can be published under the key of its contents (<see cref="TokenContext.TryKey"/>); when its last holder lets go it stays, for a later
/// prompt that begins the same way, until memory is wanted or <see cref="IdleLimit"/> blocks are younger.
/// </remarks>
internal sealed unsafe class KvCache : IDisposable
{
    /// <summary>Of each layer, the first blocks that stay in small pages.</summary>
    private const int SmallPageBytes = 2 << 20;
    private readonly KvMemory _memory;
    private readonly nint _layerBytes;
    private readonly int _layerCount;
    private readonly Stack<int> _free = new();
    private readonly int[] _holders;
    private readonly Dictionary<UInt128, int> _published = [];
    private readonly UInt128?[] _keys;
    /// <summary>Published blocks that nobody holds, the longest unused one first.</summary>
    private readonly LinkedList<int> _idle = new();
    private readonly LinkedListNode<int>?[] _idleNodes;

    public KvCache(KvBlockLayout layout, int layerCount, int blockCount) : this(layout, layerCount, blockCount, static bytes => new HostKvMemory(bytes))
    {
        // Short contexts should not pay for the rest of a large page in every layer; a context that outgrows as much may.
        var small = SmallPageBytes / layout.BlockBytes * layout.BlockBytes;
        for (var layer = 0; layer < layerCount && small < _layerBytes; layer++) ((HostKvMemory)_memory).AdviseLargePages(layer * _layerBytes + small, _layerBytes - small);
    }

    /// <param name="layout">Of a block.</param>
    /// <param name="layerCount">Layers of the model.</param>
    /// <param name="blockCount">Blocks of each.</param>
    /// <param name="reserve">Makes memory of a size in bytes, which the cache then owns.</param>
    public KvCache(KvBlockLayout layout, int layerCount, int blockCount, Func<long, KvMemory> reserve)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(layerCount);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockCount);
        Layout = layout;
        BlockCount = blockCount;
        IdleLimit = blockCount;
        _layerCount = layerCount;
        _layerBytes = checked(layout.BlockBytes * blockCount);
        _memory = reserve(checked((long)_layerBytes * layerCount));
        _holders = new int[blockCount];
        _keys = new UInt128?[blockCount];
        _idleNodes = new LinkedListNode<int>?[blockCount];
        for (var block = blockCount - 1; block >= 0; block--) _free.Push(block);
    }

    public KvBlockLayout Layout { get; }
    public int LayerCount => _layerCount;
    public int BlockCount { get; }
    /// <summary>Blocks that no context holds: empty ones and idle ones.</summary>
    public int FreeBlockCount => _free.Count + _idle.Count;
    /// <summary>Blocks that are kept for prompts to come.</summary>
    public int IdleBlockCount => _idle.Count;
    /// <summary>Most blocks that are kept idle; 0 keeps none.</summary>
    public int IdleLimit { get; init; }

    /// <summary>Blocks that hold <paramref name="tokens"/> positions.</summary>
    public static int BlocksFor(int tokens) => (tokens + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;

    /// <summary>A layer's pool: [blocks, <see cref="KvBlockLayout.BlockBytes"/>], on the device that computes.</summary>
    public byte* Layer(int layer) => _memory.At(layer * _layerBytes);

    /// <summary>Copies one block of one layer to the CPU's memory. Any thread may, while nobody writes to the block.</summary>
    public void Read(int layer, int block, byte* target) => _memory.Read(Offset(layer, block), target, Layout.BlockBytes);

    /// <summary>Copies one block of one layer from the CPU's memory. Any thread may, while nobody else uses the block.</summary>
    public void Write(int layer, int block, byte* source) => _memory.Write(Offset(layer, block), source, Layout.BlockBytes);

    /// <summary>A block with one holder. The longest unused idle block goes where none is empty; at least one of them must be there.</summary>
    /// <exception cref="InsufficientMemoryException">The system has no pages left; the block stays free.</exception>
    public int Allocate()
    {
        if (_free.Count == 0) Evict();
        var block = _free.Peek();
        while (true)
        {
            try
            {
                for (var layer = 0; layer < _layerCount; layer++) _memory.Commit(Offset(layer, block), Layout.BlockBytes);
                break;
            }
            catch (InsufficientMemoryException) when (_idle.Count > 0)
            {
                // What the system has not, the idle blocks have.
                Evict();
                block = _free.Peek();
            }
        }
        _free.Pop();
        _holders[block] = 1;
        return block;
    }

    /// <summary>Takes a block that was published under this key.</summary>
    public bool TryShare(UInt128 key, out int block)
    {
        if (!_published.TryGetValue(key, out block)) return false;
        Retain(block);
        return true;
    }

    public void Retain(int block)
    {
        if (_holders[block]++ > 0 || _idleNodes[block] is not { } node) return;
        _idle.Remove(node);
        _idleNodes[block] = null;
    }

    public void Release(int block)
    {
        if (--_holders[block] > 0) return;
        if (_keys[block] is null)
        {
            Free(block);
            return;
        }
        _idleNodes[block] = _idle.AddLast(block);
        while (_idle.Count > IdleLimit) Evict();
    }

    /// <summary>Makes a full block known. A block with the same contents that is known already stays the known one.</summary>
    public void Publish(UInt128 key, int block)
    {
        if (IdleLimit > 0 && _keys[block] is null && _published.TryAdd(key, block)) _keys[block] = key;
    }

    /// <summary>Whether a holder may write into a block: it is the only one, and nobody finds the block by its key any more.</summary>
    public bool TryOwn(int block)
    {
        if (_holders[block] > 1) return false;
        Forget(block);
        return true;
    }

    public void Copy(int source, int target)
    {
        for (var layer = 0; layer < _layerCount; layer++) _memory.Copy(Offset(layer, source), Offset(layer, target), Layout.BlockBytes);
    }

    /// <summary>Gives idle blocks back to the system.</summary>
    public void FreeIdle()
    {
        while (_idle.Count > 0) Evict();
    }

    public void Dispose() => _memory.Dispose();

    private nint Offset(int layer, int block) => layer * _layerBytes + block * Layout.BlockBytes;

    private void Evict()
    {
        var block = _idle.First!.Value;
        _idle.RemoveFirst();
        _idleNodes[block] = null;
        Forget(block);
        Free(block);
    }

    private void Forget(int block)
    {
        if (_keys[block] is not { } key) return;
        _published.Remove(key);
        _keys[block] = null;
    }

    private void Free(int block)
    {
        for (var layer = 0; layer < _layerCount; layer++) _memory.Decommit(Offset(layer, block), Layout.BlockBytes);
        _free.Push(block);
    }
}
