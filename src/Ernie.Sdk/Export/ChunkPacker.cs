using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>A run of rows of a weight, and where its bytes lie in that weight's.</summary>
internal sealed record WeightChunk(SourceRows Rows, long FirstRow, long RowCount, long Position);

/// <summary>Reads and packs one chunk after another on the thread pool, in buffers of its own.</summary>
internal sealed class ChunkPacker
{
    private float[] _values = [];
    private byte[] _bytes = [];
    private WeightChunk? _chunk;
    private Task<int> _packing = Task.FromResult(0);

    /// <summary>Begins a chunk; the one before must have been taken.</summary>
    public void Start(WeightChunk chunk, CancellationToken cancellationToken)
    {
        _chunk = chunk;
        _packing = Task.Run(() => Pack(chunk, cancellationToken), CancellationToken.None);
    }

    /// <summary>Waits for the chunk. The bytes are valid until the next start.</summary>
    public (WeightChunk Chunk, ReadOnlyMemory<byte> Bytes) Result()
    {
        // Before the buffer is looked at: packing may replace it.
        var length = _packing.GetAwaiter().GetResult();
        return (_chunk!, _bytes.AsMemory(0, length));
    }

    /// <summary>Waits until nothing is read any more, with or without success.</summary>
    public void Wait() => ((IAsyncResult)_packing).AsyncWaitHandle.WaitOne();

    private int Pack(WeightChunk chunk, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var weight = chunk.Rows.Weight;
        var (format, columns) = (weight.Format, weight.Columns);
        var bytes = Buffer(ref _bytes, format.Bytes(1, chunk.RowCount, columns));
        if (chunk.Rows.ArePacked(chunk.FirstRow, chunk.RowCount))
        {
            chunk.Rows.ReadPanels(new PanelLayout(format, columns), chunk.FirstRow, chunk.RowCount, bytes);
            return bytes.Length;
        }
        var values = Buffer(ref _values, chunk.RowCount * columns);
        chunk.Rows.Read(chunk.FirstRow, values);
        if (format.Kind == WeightKind.Int2)
            throw new NotSupportedException($"{chunk.Rows.NameAt(chunk.FirstRow)}: int2 needs calibration, without which it ruins a model. Export with calibration text or ids, or to int4.");
        if (format.IsPacked) MatrixQuantizer.Quantize(format, chunk.Rows.NameAt(chunk.FirstRow), values, ErrorMetric.Uniform((int)columns), bytes);
        else WeightPacker.Pack(format, values, bytes);
        return bytes.Length;
    }

    private static Span<T> Buffer<T>(ref T[] buffer, long length)
    {
        if (buffer.Length < length) buffer = GC.AllocateUninitializedArray<T>(checked((int)length));
        return buffer.AsSpan(0, (int)length);
    }
}
