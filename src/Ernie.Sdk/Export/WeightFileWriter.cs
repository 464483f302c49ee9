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
    /// <summary>Bytes of finished tensors read at a time.</summary>
    private const int CheckedBytes = 8 << 20;

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

    /// <param name="path">The weight file: created, or continued if <paramref name="journal"/> knows finished tensors.</param>
    /// <param name="source">Where the weights come from.</param>
    /// <param name="calibration">Tokens under whose activations packed weights are rounded, or null: every input counts the same.</param>
    /// <param name="report">Told what that cost.</param>
    /// <param name="journal">Told every tensor that is complete, or null.</param>
    /// <param name="progress">Told about every chunk.</param>
    /// <param name="cancellationToken">Stops.</param>
    public IReadOnlyList<ManifestTensor> Write(string path, IWeightSource source, CalibrationTokens? calibration, QualityReport report, ExportJournal? journal, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        using var file = Open(path, journal);
        var checksums = Finished(file, journal, progress, cancellationToken);
        var (bytesDone, bytesTotal) = (0L, _weights.Where(weight => !checksums.ContainsKey(weight.Name)).Sum(static weight => weight.Bytes));
        var clock = Stopwatch.StartNew();
        if (calibration is not null)
        {
            var panels = new PanelFile(file, path, _offsets, checksums, journal)
            {
                Progress = (name, bytes) =>
                {
                    progress?.Report(new ErnieProgress(name, bytesDone, bytesTotal, clock.Elapsed));
                    bytesDone += bytes;
                },
            };
            using var layers = new CalibratedLayers(source, _weights, calibration, panels, report, cancellationToken);
            layers.Run();
        }
        var missing = _weights.Where(weight => !checksums.ContainsKey(weight.Name)).ToList();
        using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        // Chunks are read and packed in parallel, a few ahead of the one that is written; their number bounds the memory, their order is that of the file.
        var slots = new ChunkPacker[Environment.ProcessorCount + 1];
        for (var i = 0; i < slots.Length; i++) slots[i] = new ChunkPacker();
        var (started, finished) = (0L, 0L);
        try
        {
            foreach (var weight in missing)
            {
                foreach (var chunk in Chunks(weight, new SourceRows(weight, source)))
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
        progress?.Report(new ErnieProgress("weights", bytesTotal, bytesTotal, clock.Elapsed));
        return [.. _weights.Select(weight => new ManifestTensor(weight.Name, weight.Format, weight.Shape, _offsets[weight.Name], weight.Bytes, checksums[weight.Name]))];

        void Finish()
        {
            var (chunk, bytes) = slots[finished++ % slots.Length].Result();
            var weight = chunk.Rows.Weight;
            checksum.AppendData(bytes.Span);
            Write(file, bytes.Span, _offsets[weight.Name] + chunk.Position, path);
            progress?.Report(new ErnieProgress(weight.Name, bytesDone, bytesTotal, clock.Elapsed));
            bytesDone += bytes.Length;
            if (chunk.Position + bytes.Length != weight.Bytes) return;
            var sha256 = Convert.ToHexStringLower(checksum.GetHashAndReset());
            checksums.Add(weight.Name, sha256);
            journal?.Add(weight.Name, sha256);
        }
    }

    /// <summary>Checksums of the tensors that lie in the file as the journal says.</summary>
    private Dictionary<string, string> Finished(SafeFileHandle file, ExportJournal? journal, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var found = new Dictionary<string, string>(StringComparer.Ordinal);
        if (journal is null) return found;
        var claimed = _weights.Where(weight => journal.Finished.ContainsKey(weight.Name)).ToList();
        var (clock, done, total) = (Stopwatch.StartNew(), 0L, claimed.Sum(static weight => weight.Bytes));
        var buffer = new byte[Math.Min(total, CheckedBytes)];
        using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var weight in claimed)
        {
            for (long at = 0; at < weight.Bytes;)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var read = RandomAccess.Read(file, buffer.AsSpan(0, (int)Math.Min(buffer.Length, weight.Bytes - at)), _offsets[weight.Name] + at);
                if (read == 0) break;
                checksum.AppendData(buffer, 0, read);
                at += read;
                done += read;
                progress?.Report(new ErnieProgress(weight.Name, done, total, clock.Elapsed));
            }
            var sha256 = Convert.ToHexStringLower(checksum.GetHashAndReset());
            if (sha256 == journal.Finished[weight.Name]) found.Add(weight.Name, sha256);
        }
        return found;
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
    private SafeFileHandle Open(string path, ExportJournal? journal)
    {
        try
        {
            var continues = journal is { Finished.Count: > 0 } && File.Exists(path);
            var file = File.OpenHandle(path, continues ? FileMode.Open : FileMode.Create, FileAccess.ReadWrite, FileShare.None, FileOptions.None, continues ? 0 : TotalBytes);
            try
            {
                RandomAccess.SetLength(file, TotalBytes);
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
