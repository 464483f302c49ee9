using System.Diagnostics;
using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;

namespace Ernie.Sdk.Export;

/// <summary>Compares an exported model with its manifest, byte by byte.</summary>
internal static class ModelVerifier
{
    private const int ChunkBytes = 8 << 20;

    public static void Verify(string folder, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var manifest = ModelManifest.Read(folder);
        Check(folder, manifest);
        var clock = Stopwatch.StartNew();
        var total = manifest.Files.Sum(static f => f.Bytes) + manifest.Tensors.Sum(static t => t.Bytes);
        long done = 0;
        var buffer = new byte[ChunkBytes];
        foreach (var file in manifest.Files)
        {
            using var handle = File.OpenHandle(Path.Combine(folder, file.Name), FileMode.Open, FileAccess.Read, FileShare.Read);
            Compare(handle, 0, file.Bytes, file.Sha256, file.Name, file.Name);
        }
        using var weights = File.OpenHandle(Path.Combine(folder, ModelManifest.WeightFile), FileMode.Open, FileAccess.Read, FileShare.Read);
        foreach (var tensor in manifest.Tensors) Compare(weights, tensor.Offset, tensor.Bytes, tensor.Sha256, tensor.Name, $"{ModelManifest.WeightFile}, tensor {tensor.Name}");

        void Compare(SafeFileHandle handle, long offset, long bytes, string expected, string stage, string what)
        {
            using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            for (long at = 0; at < bytes;)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var read = RandomAccess.Read(handle, buffer.AsSpan(0, (int)Math.Min(ChunkBytes, bytes - at)), offset + at);
                if (read == 0) throw new InvalidDataException($"{folder}: {what} ends after {at} of {bytes} bytes. Export the checkpoint again.");
                checksum.AppendData(buffer, 0, read);
                at += read;
                done += read;
                progress?.Report(new ErnieProgress(stage, done, total, clock.Elapsed));
            }
            var actual = Convert.ToHexStringLower(checksum.GetHashAndReset());
            if (actual != expected) throw new InvalidDataException($"{folder}: {what} is damaged: its SHA-256 is {actual}, the manifest says {expected}. Copy the model again or export the checkpoint again.");
        }
    }

    /// <summary>The cheap part, done at every load: nothing is missing, every file has its length, and the graph is the one that belongs to the manifest.</summary>
    public static void Check(string folder, ModelManifest manifest)
    {
        CheckSizes(folder, manifest);
        CheckGraph(folder, manifest);
    }

    /// <summary>
    /// ONNX Runtime and the kernels get no graph but the one this library builds for the manifest's configuration, byte for byte: they trust shapes, attributes and offsets.
    /// </summary>
    private static void CheckGraph(string folder, ModelManifest manifest)
    {
        var stored = File.ReadAllBytes(Path.Combine(folder, ModelManifest.ModelFile));
        var actual = Convert.ToHexStringLower(SHA256.HashData(stored));
        var expected = manifest.Files.First(static f => f.Name == ModelManifest.ModelFile).Sha256;
        if (actual != expected)
            throw new InvalidDataException($"{folder}: {ModelManifest.ModelFile} is damaged: its SHA-256 is {actual}, the manifest says {expected}. Copy the model again or export the checkpoint again.");
        try
        {
            var graph = ErnieGraph.Build(manifest.Config, manifest.Formats, manifest.DebugOutputs);
            var plan = WeightFileWriter.Plan(graph.Weights);
            if (plan.TotalBytes != manifest.WeightBytes || !manifest.Tensors.Select(Layout).SequenceEqual(graph.Weights.Select(w => (w.Name, w.Format, plan.Offsets[w.Name], w.Bytes))))
                throw new InvalidDataException($"{folder}: the tensors that {ModelManifest.FileName} lists are not those of its configuration. {ExportAgain}");
            if (!stored.AsSpan().SequenceEqual(graph.Build(ModelManifest.WeightFile, plan.Offsets, manifest.ProducerVersion)))
                throw new InvalidDataException($"{folder}: {ModelManifest.ModelFile} is not the graph of the model that {ModelManifest.FileName} describes. {ExportAgain}");
        }
        catch (OverflowException e)
        {
            throw new InvalidDataException($"{folder}: {ModelManifest.FileName} describes an impossible model. Export the checkpoint again.", e);
        }

        static (string, Quantization.WeightFormat, long, long) Layout(ManifestTensor tensor) => (tensor.Name, tensor.Format, tensor.Offset, tensor.Bytes);
    }

    private const string ExportAgain = "One of them was edited, or another version of Ernie.Sdk wrote them. Export the checkpoint again.";

    private static void CheckSizes(string folder, ModelManifest manifest)
    {
        foreach (var (name, bytes) in manifest.Files.Select(static f => (f.Name, f.Bytes)).Append((ModelManifest.WeightFile, manifest.WeightBytes)))
        {
            var path = Path.Combine(folder, name);
            if (!File.Exists(path)) throw new InvalidDataException($"{folder}: {name} is missing. Copy the model again or export the checkpoint again.");
            var length = Length(path);
            if (length != bytes) throw new InvalidDataException($"{folder}: {name} has {length} bytes, the manifest says {bytes}. Copy the model again or export the checkpoint again.");
        }
        if (!manifest.Files.Any(static f => f.Name == ModelManifest.ModelFile)) throw new InvalidDataException($"{folder}: the manifest does not list {ModelManifest.ModelFile}. Export the checkpoint again.");
    }

    /// <summary>Of the file itself: FileInfo gives the length of a symbolic link.</summary>
    private static long Length(string path)
    {
        using var handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        return RandomAccess.GetLength(handle);
    }
}
