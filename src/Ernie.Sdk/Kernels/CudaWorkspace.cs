using Ernie.Sdk.Native;

namespace Ernie.Sdk.Kernels;

/// <summary>
/// Device memory that kernels of one operator pass numbers by. The next operator gets the same memory again: both run on one stream, one after the other. It grows to what the largest step has taken.
/// </summary>
/// <remarks>Used by one thread at a time. ONNX Runtime's own arena does the same, but asking it costs microseconds a piece, and a decode step asks some thousand times.</remarks>
internal sealed unsafe class CudaWorkspace(CudaContext context) : IDisposable
{
    /// <summary>Kernels read rows in units of 16 bytes; 256 is what the driver's own allocations have.</summary>
    private const int Alignment = 256;
    /// <summary>What is allocated at least.</summary>
    public const long LeastBytes = 1 << 20;

    private readonly List<CudaMemory> _pieces = [];
    private (int Piece, long Used) _at, _kept;

    /// <summary>Size of everything that is held.</summary>
    public long Bytes => _pieces.Sum(static piece => piece.Bytes);

    /// <summary>How often memory was given back. As long as it is the same, so are all addresses that a step rents: a piece that is added leaves the others where they are. An address alone would not tell: the driver may give the same again.</summary>
    public int Moves { get; private set; }

    /// <summary>What a piece of memory takes here.</summary>
    public static long Aligned(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;

    /// <summary>Makes one piece of so many bytes before anything is launched, so that no operator that needs no more has to allocate.</summary>
    public void Reserve(long bytes)
    {
        if (Bytes >= bytes) return;
        Dispose();
        _pieces.Add(context.Allocate(Math.Max(bytes, LeastBytes)));
    }

    /// <summary>The next operator begins: what was rented may be rented again.</summary>
    public void Reset() => _at = _kept;

    /// <summary>The next step begins: what was kept may be rented again.</summary>
    public void Release() => _at = _kept = default;

    /// <summary>Memory until <see cref="Release"/>, aligned to 256 bytes. What it holds is unknown.</summary>
    /// <exception cref="CudaException">The GPU has no memory left.</exception>
    public void* Keep(long bytes)
    {
        var address = Rent(bytes);
        _kept = _at;
        return address;
    }

    /// <summary>Memory until <see cref="Reset"/>, aligned to 256 bytes. What it holds is unknown.</summary>
    /// <exception cref="CudaException">The GPU has no memory left.</exception>
    public void* Rent(long bytes)
    {
        bytes = Aligned(bytes);
        for (; _at.Piece < _pieces.Count; _at = (_at.Piece + 1, 0))
        {
            if (_at.Used + bytes <= _pieces[_at.Piece].Bytes) break;
        }
        if (_at.Piece == _pieces.Count) _pieces.Add(context.Allocate(Math.Max(bytes, LeastBytes)));
        var address = _pieces[_at.Piece].Address + (nint)_at.Used;
        _at.Used += bytes;
        return (void*)address;
    }

    /// <summary>Makes one piece of several, for the next step. Only while nothing runs that was launched before.</summary>
    public void Join()
    {
        if (_pieces.Count < 2) return;
        var bytes = Bytes;
        Dispose();
        _pieces.Add(context.Allocate(bytes));
    }

    public void Dispose()
    {
        if (_pieces.Count > 0) Moves++;
        foreach (var piece in _pieces) piece.Dispose();
        _pieces.Clear();
        Release();
    }
}
