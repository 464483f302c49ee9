using System.Diagnostics;
using System.Numerics.Tensors;
using System.Security.Cryptography;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;
using Microsoft.Win32.SafeHandles;

namespace Ernie.Sdk.Export;

/// <summary>Streams weights into one file, a few megabytes at a time whatever the model's size. Every tensor starts on a page.</summary>
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

    public IReadOnlyList<ManifestTensor> Write(string path, IWeightSource source, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var clock = Stopwatch.StartNew();
        var tensors = new List<ManifestTensor>(_weights.Count);
        using var file = Create(path, TotalBytes);
        var floats = new float[ChunkFloats];
        // One buffer is written while the next one is filled: reading, packing and checksums cost as much as a fast disk's writing.
        var (filling, inFlight) = (new byte[ChunkFloats * sizeof(float)], new byte[ChunkFloats * sizeof(float)]);
        var writing = Task.CompletedTask;
        using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        try
        {
            foreach (var weight in _weights)
            {
                var offset = _offsets[weight.Name];
                var position = offset;
                foreach (var name in weight.Sources)
                {
                    position = WriteSource(weight, source.Tensor(name), position);
                }
                if (position - offset != weight.Bytes)
                    throw new InvalidDataException($"{weight.Name}: its source tensors hold {position - offset} bytes, the configuration asks for {weight.Bytes}.");
                tensors.Add(new ManifestTensor(weight.Name, weight.Format, weight.Shape, offset, weight.Bytes, Convert.ToHexStringLower(checksum.GetHashAndReset())));
            }
        }
        finally
        {
            // The file must stay open until the last write has ended, whatever ends the loop.
            ((IAsyncResult)writing).AsyncWaitHandle.WaitOne();
        }
        writing.GetAwaiter().GetResult();
        RandomAccess.FlushToDisk(file);
        progress?.Report(new ErnieProgress("weights", TotalBytes, TotalBytes, clock.Elapsed));
        return tensors;

        long WriteSource(ExportedWeight weight, CheckpointTensor tensor, long position)
        {
            if (tensor.Columns != weight.Columns)
                throw new InvalidDataException($"{tensor.File}: tensor {tensor.Name} has {tensor.Columns} inputs, expected {weight.Columns}.");
            // A buffer holds at least one row: a row is at most the vocabulary or a feed-forward width.
            var rowsAtOnce = Math.Max(1, ChunkFloats / tensor.Columns);
            if (tensor.Columns > ChunkFloats) throw new InvalidDataException($"{tensor.File}: tensor {tensor.Name} has rows of {tensor.Columns} values; at most {ChunkFloats} are supported.");
            for (long row = 0; row < tensor.Rows; row += rowsAtOnce)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var rows = Math.Min(rowsAtOnce, tensor.Rows - row);
                var values = floats.AsSpan(0, (int)(rows * tensor.Columns));
                tensor.Read(row, values);
                if (!TensorPrimitives.IsFiniteAll<float>(values)) ThrowNonFinite(tensor, row, values);
                var packed = filling.AsMemory(0, (int)(rows * weight.Format.RowBytes(tensor.Columns)));
                WeightPacker.Pack(weight.Format, values, packed.Span);
                checksum.AppendData(packed.Span);
                writing.GetAwaiter().GetResult();
                (filling, inFlight) = (inFlight, filling);
                var start = position;
                writing = Task.Run(() => Write(file, packed.Span, start, path), CancellationToken.None);
                position += packed.Length;
                progress?.Report(new ErnieProgress(weight.Name, start, TotalBytes, clock.Elapsed));
            }
            return position;
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

    private static void ThrowNonFinite(CheckpointTensor tensor, long firstRow, ReadOnlySpan<float> values)
    {
        var index = 0;
        while (float.IsFinite(values[index])) index++;
        throw new InvalidDataException(
            $"{tensor.File}: tensor {tensor.Name} holds {values[index]} at row {firstRow + index / tensor.Columns}, column {index % tensor.Columns}; weights must be finite. Download the file again.");
    }
}
