using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring.Cards;

/// <summary>What a card copies on itself at this moment: the yardstick of decode on a GPU.</summary>
internal sealed class CardCopyProbe : IDisposable
{
    /// <summary>Far more than any cache of a card holds.</summary>
    private const long MostBytes = 512L << 20;
    /// <summary>A measurement lasts so long at least.</summary>
    private const double LeastSeconds = 0.02;
    private readonly CudaContext _context;
    private readonly CudaStream _stream;
    private readonly CudaEvent _start, _end;

    /// <param name="installation">What is there of CUDA.</param>
    /// <param name="count">Cards that a model is computed on. The first one copies: a step goes through them one after another.</param>
    public CardCopyProbe(CudaInstallation installation, int count = 1)
    {
        var cards = installation.UsableGpus();
        var card = cards[0];
        Name = string.Join("; ", cards.Take(count).Select(CudaInstallation.Describe));
        _context = card.Retain();
        _stream = _context.CreateStream();
        (_start, _end) = (_context.CreateEvent(timing: true), _context.CreateEvent(timing: true));
    }

    /// <summary>The cards.</summary>
    public string Name { get; }

    /// <summary>Bytes per second, those that are read and those that are written.</summary>
    public double Measure()
    {
        // A loaded model leaves its reserve free; it is given back for steps that grow.
        using var memory = _context.Allocate(Math.Min(MostBytes, _context.FreeBytes() / 4) / 512 * 512);
        memory.Clear(_stream);
        // The first copies wake the card.
        var once = Seconds(memory, 2);
        var copies = (int)Math.Clamp(LeastSeconds / Math.Max(once, 1e-6), 2, 1000);
        return memory.Bytes / Seconds(memory, copies);
    }

    public void Dispose()
    {
        _start.Dispose();
        _end.Dispose();
        _stream.Dispose();
        _context.Dispose();
    }

    /// <summary>Of one copy of many.</summary>
    private double Seconds(CudaMemory memory, int copies)
    {
        _start.Record(_stream.Handle);
        for (var i = 0; i < copies; i++) memory.CopyFrom(memory, memory.Bytes / 2, 0, memory.Bytes / 2, _stream);
        _end.Record(_stream.Handle);
        _end.Synchronize();
        return _end.MillisecondsSince(_start) / 1e3 / copies;
    }
}
