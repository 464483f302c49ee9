using System.IO.Compression;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests;

/// <summary>What the card can do: the kernels of <c>Probes/probe.cu</c>, and the driver's own copy.</summary>
internal sealed unsafe class CardProbes : IDisposable
{
    private const int Threads = 256, BlocksOfMultiprocessor = 8;
    private readonly CudaContext _context;
    private readonly CudaModules _modules;
    private readonly CudaMemory _memory, _out;
    private readonly GpuClock _clock;
    private readonly int _grid, _rounds;

    public CardProbes(CudaContext context, bool isTiny)
    {
        _context = context;
        _modules = new CudaModules(context, Open);
        _clock = new GpuClock(context, isTiny);
        (_grid, _rounds) = isTiny ? (2, 3) : (BlocksOfMultiprocessor * context.Device.MultiprocessorCount, 4096);
        // Far more than any cache holds.
        _memory = context.Allocate(isTiny ? 1 << 16 : 2L << 30);
        _out = context.Allocate((long)_grid * Threads * sizeof(float));
        _memory.Clear(_clock.Stream);
    }

    /// <summary>Bytes that a read reads, or a copy reads and writes.</summary>
    public long Bytes => _memory.Bytes;

    /// <summary>The PTX of a file for a target; null if there is none.</summary>
    public static Stream? Open(string file, string target)
    {
        using var resource = typeof(CardProbes).Assembly.GetManifestResourceStream($"Ernie.Sdk.GpuTests.Probes.{file}.{target}.ptx.gz");
        if (resource is null) return null;
        var text = new MemoryStream();
        using (var gzip = new GZipStream(resource, CompressionMode.Decompress)) gzip.CopyTo(text);
        text.Position = 0;
        return text;
    }

    /// <summary>Bytes a second that are read from memory by all threads.</summary>
    public double ReadRate() => _memory.Bytes / _clock.Seconds(_ => Read());

    /// <summary>Bytes a second of a copy on the device, those that are read and those that are written.</summary>
    public double CopyRate() => _memory.Bytes / _clock.Seconds(_ => _memory.CopyFrom(_memory, _memory.Bytes / 2, 0, _memory.Bytes / 2, _clock.Stream));

    /// <summary>Multiplications and additions a second of bfloat16 tensor instructions (mma.sync) from registers.</summary>
    public double TensorRate() => 2.0 * 16 * 8 * 16 * 8 * _rounds * _grid * (Threads / 32) / _clock.Seconds(_ => Multiply());

    /// <summary>The probes compute what they should: otherwise their rates are of something else.</summary>
    public void Check(Findings findings)
    {
        var seen = new float[_grid * Threads];
        var words = new uint[16 * 1024];
        new Random(1).NextBytes(System.Runtime.InteropServices.MemoryMarshal.AsBytes(words.AsSpan()));
        fixed (uint* w = words) _memory.CopyFrom(w, Math.Min(_memory.Bytes, words.Length * sizeof(uint)), 0, _clock.Stream);
        Read();
        Results(seen);
        findings.True(seen.Aggregate(0u, static (all, value) => all ^ BitConverter.SingleToUInt32Bits(value)) == words.Aggregate(0u, static (all, word) => all ^ word), "read_all read something else than what is there.");
        Multiply();
        Results(seen);
        findings.Near([.. Enumerable.Repeat(512f * _rounds, seen.Length)], seen, 0, 1e-6, "multiply_all");
    }

    public void Dispose()
    {
        _memory.Dispose();
        _out.Dispose();
        _clock.Dispose();
        _modules.Dispose();
    }

    private void Read()
    {
        CudaParameter[] parameters = [(void*)_memory.Address, checked((int)(_memory.Bytes / 16)), _grid, (void*)_out.Address];
        Launch("read_all", parameters);
    }

    private void Multiply()
    {
        CudaParameter[] parameters = [_rounds, (void*)_out.Address];
        Launch("multiply_all", parameters);
    }

    private void Launch(string kernel, CudaParameter[] parameters)
    {
        var addresses = stackalloc nint[parameters.Length];
        fixed (CudaParameter* values = parameters)
        {
            for (var i = 0; i < parameters.Length; i++) addresses[i] = (nint)(values + i);
            _context.Enter();
            _modules.Function("probe", kernel).Launch(new CudaSize((uint)_grid), new CudaSize(Threads), 0, _clock.Stream.Handle, new ReadOnlySpan<nint>(addresses, parameters.Length));
        }
    }

    private void Results(float[] seen)
    {
        fixed (float* to = seen) _out.CopyTo(to, (long)seen.Length * sizeof(float), 0, _clock.Stream);
        _clock.Stream.Synchronize();
    }
}
