using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;

namespace Ernie.Sdk.Export;

/// <summary>The weight file, by panels of its packed weights: written in any order inside a matrix, read again as soon as they are there.</summary>
internal sealed class PanelFile(SafeFileHandle file, string path, IReadOnlyDictionary<string, long> offsets, IDictionary<string, string> checksums, ExportJournal? journal)
{
    private const int ReadBytes = 8 << 20;
    private readonly Dictionary<string, long> _written = new(StringComparer.Ordinal);

    /// <summary>Told the name of a weight and the bytes of it that are new.</summary>
    public Action<string, long>? Progress { get; init; }

    public bool IsFinished(ExportedWeight weight) => checksums.ContainsKey(weight.Name);

    public bool IsWritten(ExportedWeight weight, long panel) => IsFinished(weight) || _written.GetValueOrDefault(weight.Name) > panel;

    /// <summary>Thread-safe.</summary>
    public void Write(ExportedWeight weight, long panel, ReadOnlySpan<byte> bytes)
    {
        try
        {
            RandomAccess.Write(file, bytes, offsets[weight.Name] + panel * bytes.Length);
        }
        catch (IOException e)
        {
            throw ExportFolder.WritingFailed(path, e);
        }
    }

    /// <summary>Reads panels from <paramref name="panel"/> on.</summary>
    public void Read(ExportedWeight weight, long panel, int panelBytes, Span<byte> bytes)
    {
        var position = offsets[weight.Name] + panel * panelBytes;
        while (bytes.Length > 0)
        {
            var read = RandomAccess.Read(file, bytes, position);
            if (read == 0) throw new IOException($"{path} ends early: another program has changed it. Export again.");
            bytes = bytes[read..];
            position += read;
        }
    }

    /// <summary>All panels before <paramref name="end"/> are written. With the last one the weight is finished.</summary>
    public void Written(ExportedWeight weight, long end)
    {
        var panelBytes = weight.GraphShape[1];
        Progress?.Invoke(weight.Name, (end - _written.GetValueOrDefault(weight.Name)) * panelBytes);
        _written[weight.Name] = end;
        if (end * panelBytes != weight.Bytes) return;
        var buffer = new byte[Math.Min(weight.Bytes, ReadBytes)];
        using var checksum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (long at = 0; at < weight.Bytes;)
        {
            var read = RandomAccess.Read(file, buffer.AsSpan(0, (int)Math.Min(buffer.Length, weight.Bytes - at)), offsets[weight.Name] + at);
            if (read == 0) throw new IOException($"{path} ends early: another program has changed it. Export again.");
            checksum.AppendData(buffer, 0, read);
            at += read;
        }
        var sha256 = Convert.ToHexStringLower(checksum.GetHashAndReset());
        checksums.Add(weight.Name, sha256);
        journal?.Add(weight.Name, sha256);
    }
}
