using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>
/// Copies pages of a mapped file to a GPU, through two pinned buffers: while one is on its way, the other is filled, and of the file only the pages at hand need be in memory.
/// Pinning the file's own pages would hold all of them.
/// </summary>
internal sealed unsafe class CudaUpload : IDisposable
{
    /// <summary>A copy of this size runs at the link's full rate on any of today's links; not measured here.</summary>
    private const int BufferBytes = 16 << 20;

    private readonly CudaContext _context;
    private readonly CudaStream _stream;
    private readonly byte*[] _buffers = new byte*[2];
    private readonly CudaPinnedPages?[] _pins = new CudaPinnedPages?[2];
    private readonly CudaEvent?[] _sent = new CudaEvent?[2];
    private int _next;

    public CudaUpload(CudaContext context)
    {
        _context = context;
        _stream = context.CreateStream();
        try
        {
            for (var i = 0; i < 2; i++)
            {
                _buffers[i] = (byte*)NativeMemory.AlignedAlloc(BufferBytes, (nuint)Environment.SystemPageSize);
                _pins[i] = context.Pin(_buffers[i], BufferBytes, readOnly: false);
                _sent[i] = context.CreateEvent();
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Bytes that went to the GPU.</summary>
    public long Bytes { get; private set; }

    /// <summary>Device memory with the same contents. When this returns they are there, and the source may go.</summary>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>; nothing is left behind.</exception>
    public CudaMemory Send(byte* source, long bytes)
    {
        var memory = _context.Allocate(bytes);
        try
        {
            for (long offset = 0; offset < bytes; offset += BufferBytes)
            {
                var (slot, length) = (_next++ & 1, Math.Min(BufferBytes, bytes - offset));
                // An event that was never recorded has passed.
                _sent[slot]!.Synchronize();
                Buffer.MemoryCopy(source + offset, _buffers[slot], BufferBytes, length);
                memory.CopyFrom(_buffers[slot], length, offset, _stream);
                _sent[slot]!.Record(_stream.Handle);
            }
            _stream.Synchronize();
            Bytes += bytes;
            return memory;
        }
        catch
        {
            // Copies may be under way into it.
            WaitSilently();
            memory.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        WaitSilently();
        for (var i = 0; i < 2; i++)
        {
            _sent[i]?.Dispose();
            _pins[i]?.Dispose();
            NativeMemory.AlignedFree(_buffers[i]);
            _buffers[i] = null;
        }
        _stream.Dispose();
    }

    private void WaitSilently()
    {
        try
        {
            _stream.Synchronize();
        }
        catch (Exception e) when (e is CudaException or ObjectDisposedException)
        {
            // The context is broken or gone: nothing is under way any more.
        }
    }
}
