using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Ernie.Cli.Pulling;

/// <summary>The hashes of a file while its bytes arrive.</summary>
internal sealed class ContentHash : IDisposable
{
    private readonly IncrementalHash _sha256 = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    private readonly IncrementalHash? _gitBlob;

    public ContentHash(RepositoryFile file)
    {
        // Git names a content by SHA-1 over its length and its bytes.
        if (file is not { GitBlob: not null, Size: { } size }) return;
        _gitBlob = IncrementalHash.CreateHash(HashAlgorithmName.SHA1);
        _gitBlob.AppendData(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {size}\0")));
    }

    /// <summary>Bytes hashed so far.</summary>
    public long Position { get; private set; }

    public void Append(ReadOnlySpan<byte> bytes)
    {
        _sha256.AppendData(bytes);
        _gitBlob?.AppendData(bytes);
        Position += bytes.Length;
    }

    /// <summary>Hashes what is left of a stream up to a position.</summary>
    public async Task AppendAsync(Stream stream, long upTo, CancellationToken cancellationToken)
    {
        var buffer = new byte[1 << 20];
        stream.Position = Position;
        while (Position < upTo)
        {
            var count = await stream.ReadAsync(buffer.AsMemory(0, (int)Math.Min(buffer.Length, upTo - Position)), cancellationToken).ConfigureAwait(false);
            if (count == 0) break;
            Append(buffer.AsSpan(0, count));
        }
    }

    /// <summary>Compares with what the repository says; done once, at the end.</summary>
    /// <returns>Null where all is equal or nothing is known.</returns>
    public string? Difference(string? sha256, string? gitBlob)
    {
        if (sha256 is not null) return Compare("SHA-256", sha256, _sha256);
        return gitBlob is not null && _gitBlob is not null ? Compare("Git's SHA-1", gitBlob, _gitBlob) : null;
    }

    public void Dispose()
    {
        _sha256.Dispose();
        _gitBlob?.Dispose();
    }

    private static string? Compare(string name, string expected, IncrementalHash hash)
    {
        var actual = Convert.ToHexStringLower(hash.GetHashAndReset());
        return actual == expected ? null : $"{name} is {actual}, the repository says {expected}";
    }
}
