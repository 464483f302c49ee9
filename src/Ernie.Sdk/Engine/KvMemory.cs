using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>What the blocks of a cache lie in: the CPU's memory, a GPU's, or one after another.</summary>
internal abstract unsafe class KvMemory : IDisposable
{
    /// <summary>Address of the device whose kernels read and write there.</summary>
    public abstract byte* At(nint offset);

    /// <summary>Makes a range usable.</summary>
    /// <exception cref="InsufficientMemoryException">The system has no pages left.</exception>
    public abstract void Commit(nint offset, nint bytes);

    /// <summary>Gives a range back to the system, where that is possible.</summary>
    public abstract void Decommit(nint offset, nint bytes);

    public abstract void Copy(nint source, nint target, nint bytes);

    /// <summary>Copies from here to memory of the CPU. Any thread may, while nobody writes there.</summary>
    public abstract void Read(nint offset, byte* target, nint bytes);

    /// <summary>Copies from memory of the CPU.</summary>
    public abstract void Write(nint offset, byte* source, nint bytes);

    public abstract void Dispose();
}

/// <summary>Pages of this process, taken as they are used.</summary>
internal sealed unsafe class HostKvMemory(long bytes) : KvMemory
{
    private readonly VirtualMemory _memory = new(bytes);

    public override byte* At(nint offset) => _memory.Address + offset;
    public void AdviseLargePages(nint offset, nint bytes) => _memory.AdviseLargePages(offset, bytes);
    public override void Commit(nint offset, nint bytes) => _memory.Commit(offset, bytes);
    public override void Decommit(nint offset, nint bytes) => _memory.Decommit(offset, bytes);
    public override void Copy(nint source, nint target, nint bytes) => Buffer.MemoryCopy(At(source), At(target), bytes, bytes);
    public override void Read(nint offset, byte* target, nint bytes) => Buffer.MemoryCopy(At(offset), target, bytes, bytes);
    public override void Write(nint offset, byte* source, nint bytes) => Buffer.MemoryCopy(source, At(offset), bytes, bytes);
    public override void Dispose() => _memory.Dispose();
}

/// <summary>A GPU's memory, all of it taken at once: others who use the GPU could take what is left for later.</summary>
internal sealed unsafe class DeviceKvMemory : KvMemory
{
    private readonly CudaMemory _memory;
    private readonly CudaStream _stream;
    private readonly Func<CudaException, Exception> _failure;
    private readonly Lock _gate = new();

    /// <param name="context">Of the GPU.</param>
    /// <param name="bytes">How many.</param>
    /// <param name="failure">Makes of what the driver reports of a copy the exception that callers get.</param>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>.</exception>
    public DeviceKvMemory(CudaContext context, long bytes, Func<CudaException, Exception> failure)
    {
        _failure = failure;
        _memory = context.Allocate(bytes);
        try
        {
            _stream = context.CreateStream();
        }
        catch
        {
            _memory.Dispose();
            throw;
        }
    }

    public override byte* At(nint offset) => (byte*)_memory.Address + offset;

    // What a block held before is never read: kernels look at positions that were written.
    public override void Commit(nint offset, nint bytes)
    {
    }

    public override void Decommit(nint offset, nint bytes)
    {
    }

    public override void Copy(nint source, nint target, nint bytes) => Wait(() => _memory.CopyFrom(_memory, bytes, source, target, _stream));

    public override void Read(nint offset, byte* target, nint bytes) => Wait(() => _memory.CopyTo(target, bytes, offset, _stream));

    public override void Write(nint offset, byte* source, nint bytes) => Wait(() => _memory.CopyFrom(source, bytes, offset, _stream));

    public override void Dispose()
    {
        _stream.Dispose();
        _memory.Dispose();
    }

    /// <summary>Steps wait for their kernels, so what is copied is there, and the next step finds what was copied.</summary>
    private void Wait(Action copy)
    {
        lock (_gate)
        {
            try
            {
                copy();
                _stream.Synchronize();
            }
            catch (CudaException e)
            {
                throw _failure(e);
            }
        }
    }
}

/// <summary>Memory of several devices, of each the blocks of its layers. No block of a layer lies in two.</summary>
/// <param name="parts">In the order of their layers, with their sizes.</param>
internal sealed unsafe class SplitKvMemory((KvMemory Memory, nint Bytes)[] parts) : KvMemory
{
    public override byte* At(nint offset) => Part(ref offset).At(offset);
    public override void Commit(nint offset, nint bytes) => Part(ref offset).Commit(offset, bytes);
    public override void Decommit(nint offset, nint bytes) => Part(ref offset).Decommit(offset, bytes);
    public override void Read(nint offset, byte* target, nint bytes) => Part(ref offset).Read(offset, target, bytes);
    public override void Write(nint offset, byte* source, nint bytes) => Part(ref offset).Write(offset, source, bytes);

    public override void Copy(nint source, nint target, nint bytes)
    {
        var memory = Part(ref source);
        Part(ref target);
        memory.Copy(source, target, bytes);
    }

    public override void Dispose()
    {
        foreach (var (memory, _) in parts) memory.Dispose();
    }

    private KvMemory Part(ref nint offset)
    {
        foreach (var (memory, bytes) in parts)
        {
            if (offset < bytes) return memory;
            offset -= bytes;
        }
        throw new ArgumentOutOfRangeException(nameof(offset));
    }
}
