using System.Diagnostics;
using System.Security.Cryptography;

namespace Ernie.Sdk.Export;

/// <summary>Compares an exported model with its manifest, byte by byte.</summary>
internal static class ModelVerifier
{
    private const int ChunkBytes = 8 << 20;

    public static void Verify(string folder, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var manifest = ModelManifest.Read(folder);
        CheckSizes(folder, manifest);
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

        void Compare(Microsoft.Win32.SafeHandles.SafeFileHandle handle, long offset, long bytes, string expected, string stage, string what)
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

    /// <summary>The cheap part, done at every load: nothing is missing and every file has its length.</summary>
    public static void CheckSizes(string folder, ModelManifest manifest)
    {
        foreach (var (name, bytes) in manifest.Files.Select(static f => (f.Name, f.Bytes)).Append((ModelManifest.WeightFile, manifest.WeightBytes)))
        {
            var file = new FileInfo(Path.Combine(folder, name));
            if (!file.Exists) throw new InvalidDataException($"{folder}: {name} is missing. Copy the model again or export the checkpoint again.");
            if (file.Length != bytes) throw new InvalidDataException($"{folder}: {name} has {file.Length} bytes, the manifest says {bytes}. Copy the model again or export the checkpoint again.");
        }
        if (!manifest.Files.Any(static f => f.Name == ModelManifest.ModelFile)) throw new InvalidDataException($"{folder}: the manifest does not list {ModelManifest.ModelFile}. Export the checkpoint again.");
    }
}
