using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>
/// A thread that asks the system for pages. Asking for pages that are not in memory takes as long as their reads take to queue, often milliseconds, which is time that the engine's thread can compute in.
/// </summary>
/// <remarks>One thread asks. A full queue drops what comes, and what is asked for too late is skipped: the kernel reads those pages itself.</remarks>
internal sealed unsafe class PageReader : IDisposable
{
    private const int Capacity = 1024;

    private struct Wish
    {
        public byte* Start;
        public nint Bytes;
        public long LastPeriod;
    }

    private readonly Wish[] _wishes = new Wish[Capacity];
    private readonly AutoResetEvent _wake = new(false);
    private readonly Thread _thread;
    private long _written, _read, _period, _askedBytes;
    private volatile bool _stopping;

    public PageReader()
    {
        _thread = new Thread(Loop) { IsBackground = true, Name = "ernie-pages" };
        _thread.Start();
    }

    /// <summary>Bytes that the system was asked for; most of them it may already have had.</summary>
    public long AskedBytes => Volatile.Read(ref _askedBytes);

    /// <summary>Begins the next period. Wishes for earlier ones are no longer carried out.</summary>
    public void Advance() => Volatile.Write(ref _period, _period + 1);

    /// <summary>Asks for pages that are needed <paramref name="neededIn"/> periods from now.</summary>
    public void Ask(byte* start, nint bytes, int neededIn)
    {
        if (_written - Volatile.Read(ref _read) == Capacity) return;
        _wishes[_written % Capacity] = new Wish { Start = start, Bytes = bytes, LastPeriod = _period + neededIn };
        Volatile.Write(ref _written, _written + 1);
    }

    /// <summary>Lets the thread carry out what was asked for.</summary>
    public void Wake() => _wake.Set();

    /// <summary>Ends the thread; afterwards the pages may be unmapped.</summary>
    public void Dispose()
    {
        _stopping = true;
        _wake.Set();
        _thread.Join();
        _wake.Dispose();
    }

    private void Loop()
    {
        while (!_stopping)
        {
            if (_read == Volatile.Read(ref _written))
            {
                _wake.WaitOne();
                continue;
            }
            var wish = _wishes[_read % Capacity];
            Volatile.Write(ref _read, _read + 1);
            if (wish.LastPeriod < Volatile.Read(ref _period)) continue;
            MappedPages.WillNeed(wish.Start, wish.Bytes);
            Volatile.Write(ref _askedBytes, _askedBytes + wish.Bytes);
        }
    }
}
