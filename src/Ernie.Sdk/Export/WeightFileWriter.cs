using System.Diagnostics;
using System.Security.Cryptography;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;
using Microsoft.Win32.SafeHandles;

namespace Ernie.Sdk.Export;

/// <summary>Streams weights into one file, a few megabytes at a time on every processor whatever the model's size. Every tensor starts on a page.</summary>
internal sealed class WeightFileWriter
{
    /// <summary>Alignment of tensors in the file, so that kernels see aligned rows in the mapping.</summary>
    private const long PageBytes = 4096;
    /// <summary>Floats converted at a time: 16 MB, beyond which nothing gets faster (measured on an NVMe disk).</summary>
    private const long ChunkFloats = 4 << 20;

    private readonly IReadOnlyList<ExportedWeight> _weights;
    private readonly Dictionary<string, long> _offsets = [];

    private WeightFileWriter(IReadOnlyList<ExportedWeight> weights)
    {
        _weights = weights;
        long offset = 0;
        foreach (var weight in weights)
        {
            _offsets.Add(weight.Name, offset);
            offset = checked((offset + weight.Bytes + PageBytes - 1) / PageBytes * PageBytes);
        }
        TotalBytes = offset;
    }

    public static WeightFileWriter Plan(IReadOnlyList<ExportedWeight> weights) => new(weights);

    public IReadOnlyDictionary<string, long> Offsets => _offsets;
    public long TotalBytes { get; }

    public IReadOnlyList<ManifestTensor> Write(string path, IWeightSource source, MatrixQuantizer quantizer, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var clock = Stopwatch.StartNew();
        var tensors = new List<ManifestTensor>(_weights.Count);
        using var file = Create(path, TotalBytes);
        using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        // Chunks are read and packed in parallel, a few ahead of the one that is written; their number bounds the memory, their order is that of the file.
        var slots = new ChunkPacker[Environment.ProcessorCount + 1];
        for (var i = 0; i < slots.Length; i++) slots[i] = new ChunkPacker(quantizer);
        var (started, finished) = (0L, 0L);
        try
        {
            foreach (var weight in _weights)
            {
                var rows = new SourceRows(weight, source);
                foreach (var chunk in Chunks(weight, rows))
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    if (started - finished == slots.Length) Finish();
                    slots[started++ % slots.Length].Start(chunk, cancellationToken);
                }
            }
            while (finished < started) Finish();
        }
        finally
        {
            // The source must stay open until nobody reads it, whatever ends the loop.
            foreach (var slot in slots) slot.Wait();
        }
        RandomAccess.FlushToDisk(file);
        progress?.Report(new ErnieProgress("weights", TotalBytes, TotalBytes, clock.Elapsed));
        return tensors;

        void Finish()
        {
            var (chunk, bytes) = slots[finished++ % slots.Length].Result();
            var weight = chunk.Rows.Weight;
            var offset = _offsets[weight.Name];
            checksum.AppendData(bytes.Span);
            Write(file, bytes.Span, offset + chunk.Position, path);
            progress?.Report(new ErnieProgress(weight.Name, offset + chunk.Position, TotalBytes, clock.Elapsed));
            if (chunk.Position + bytes.Length == weight.Bytes)
                tensors.Add(new ManifestTensor(weight.Name, weight.Format, weight.Shape, offset, weight.Bytes, Convert.ToHexStringLower(checksum.GetHashAndReset())));
        }
    }

    /// <summary>A weight in runs of rows that are read and packed at once.</summary>
    private static IEnumerable<WeightChunk> Chunks(ExportedWeight weight, SourceRows rows)
    {
        var columns = weight.Columns;
        if (columns > ChunkFloats) throw new InvalidDataException($"{weight.Name} has rows of {columns} values; at most {ChunkFloats} are supported.");
        var rowsAtOnce = Math.Max(1, ChunkFloats / columns);
        if (!weight.Format.IsPacked)
        {
            for (long row = 0; row < weight.Rows; row += rowsAtOnce)
                yield return new WeightChunk(rows, row, Math.Min(rowsAtOnce, weight.Rows - row), row * weight.Format.RowBytes(columns));
            yield break;
        }
        var layout = new PanelLayout(weight.Format, columns);
        // The encoder of int2 wants to see the whole matrix.
        rowsAtOnce = weight.Format.Kind == WeightKind.Int2 ? weight.SectionRows : Math.Max(1, rowsAtOnce / PanelLayout.Rows) * PanelLayout.Rows;
        long position = 0;
        for (long section = 0; section < weight.Rows; section += weight.SectionRows)
        {
            for (long row = 0; row < weight.SectionRows; row += rowsAtOnce)
            {
                var count = Math.Min(rowsAtOnce, weight.SectionRows - row);
                yield return new WeightChunk(rows, section + row, count, position);
                position += PanelLayout.PanelCount(count) * layout.PanelBytes;
            }
        }
    }

    /// <summary>Takes the disk space at once, so that a full disk is found now and not after hours.</summary>
    private static SafeFileHandle Create(string path, long bytes)
    {
        try
        {
            var file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, FileOptions.None, bytes);
            try
            {
                RandomAccess.SetLength(file, bytes);
                return file;
            }
            catch
            {
                file.Dispose();
                throw;
            }
        }
        catch (IOException e)
        {
            throw ExportFolder.WritingFailed(path, e);
        }
    }

    private static void Write(SafeFileHandle file, ReadOnlySpan<byte> bytes, long position, string path)
    {
        try
        {
            RandomAccess.Write(file, bytes, position);
        }
        catch (IOException e)
        {
            throw ExportFolder.WritingFailed(path, e);
        }
    }
}
