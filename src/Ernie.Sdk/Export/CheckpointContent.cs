using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Ernie.Sdk.Checkpoints;
using Microsoft.Win32.SafeHandles;

namespace Ernie.Sdk.Export;

/// <summary>
/// Names the content of a checkpoint without reading all of it: wherever the folder lies, whatever it is called and whenever its files were written, the same content has the same name.
/// </summary>
/// <remarks>
/// Files that an export reads or copies are taken by name and length. Small ones are hashed whole. Of larger ones go in: first and last 64 KB, 64 pieces of 64 KB spread evenly, and of a safetensors file its
/// header, which has names, types, shapes and offsets of all tensors, and 4 KB from the middle of each tensor. Training, merging and quantising change weights all over a tensor, so one piece of each sees them; what this
/// cannot see is an edit of a few bytes in place, and hashing the 42 GB of a 21B checkpoint at every start to see it would take longer than the answer that somebody waits for. About 70 MB are read of that.
/// </remarks>
internal static class CheckpointContent
{
    /// <summary>Arbitrary; tokenizers and configurations are smaller.</summary>
    private const int WholeBytes = 16 << 20;
    private const int PieceBytes = 64 << 10;
    private const int PieceCount = 64;
    private const int TensorBytes = 4 << 10;

    /// <summary>SHA-256 of the content, in hexadecimal.</summary>
    public static string OfFolder(string checkpoint)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var file in new DirectoryInfo(checkpoint).EnumerateFiles().Where(static f => Matters(f.Name)).OrderBy(static f => f.Name, StringComparer.Ordinal))
        {
            // A name cannot hold the separator on any system.
            hash.AppendData(Encoding.UTF8.GetBytes($"/{file.Name}/"));
            Append(hash, file.FullName);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Likewise for one file.</summary>
    public static string OfFile(string path)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Append(hash, path);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Not the papers of a repository, nor files that are still being downloaded.</summary>
    private static bool Matters(string name) => name == "LICENSE" || Path.GetExtension(name) is ".safetensors" or ".json" or ".model" or ".jinja";

    private static void Append(IncrementalHash hash, string path)
    {
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        var length = RandomAccess.GetLength(file);
        hash.AppendData(Encoding.UTF8.GetBytes(length.ToString(CultureInfo.InvariantCulture) + "/"));
        var buffer = new byte[PieceBytes];
        if (length <= WholeBytes)
        {
            Append(hash, file, 0, length, buffer);
            return;
        }
        // The first piece begins at the start, the last one ends at the end.
        for (var i = 0; i <= PieceCount + 1; i++) Append(hash, file, (long)((length - PieceBytes) * (decimal)i / (PieceCount + 1)), PieceBytes, buffer);
        if (!path.EndsWith(".safetensors", StringComparison.Ordinal)) return;
        RandomAccess.Read(file, buffer.AsSpan(0, 8), 0);
        var header = BinaryPrimitives.ReadUInt64LittleEndian(buffer);
        // What is no safetensors file, or a damaged one, is refused by the export, with its reason.
        if (header > SafetensorsHeader.MaxBytes || header > (ulong)(length - 8)) return;
        Append(hash, file, 8, (long)header, buffer);
        foreach (var middle in Middles(file, (int)header, length, Path.GetFileName(path))) Append(hash, file, middle, Math.Min(TensorBytes, length - middle), buffer);
    }

    private static IEnumerable<long> Middles(SafeFileHandle file, int header, long length, string name)
    {
        var json = new byte[header];
        for (var at = 0; at < header && RandomAccess.Read(file, json.AsSpan(at), 8 + at) is > 0 and var read;) at += read;
        try
        {
            return SafetensorsHeader.Parse(json, length - 8 - header, name).Select(entry => 8 + header + entry.Begin + Math.Max(0, (entry.ByteLength - TensorBytes) / 2));
        }
        catch (InvalidDataException)
        {
            return [];
        }
    }

    private static void Append(IncrementalHash hash, SafeFileHandle file, long offset, long bytes, byte[] buffer)
    {
        for (var end = offset + bytes; offset < end;)
        {
            var read = RandomAccess.Read(file, buffer.AsSpan(0, (int)Math.Min(buffer.Length, end - offset)), offset);
            if (read == 0) return; // Cut short meanwhile; the export will say so.
            hash.AppendData(buffer, 0, read);
            offset += read;
        }
    }
}
