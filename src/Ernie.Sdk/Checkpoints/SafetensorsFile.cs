using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A safetensors file, mapped for reading. Reads are thread-safe; reading after disposal throws.</summary>
/// <remarks>
/// The map's length is fixed at opening. Touching pages beyond the end of a file that shrank since would end the process, so each access asks for the file's length first;
/// only a file cut short during a read can still do that.
/// </remarks>
internal sealed class SafetensorsFile : IDisposable
{
    private readonly FileStream _stream;
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly long _length;
    private readonly long _dataStart;

    private SafetensorsFile(string path, FileStream stream, long dataStart, IReadOnlyList<SafetensorsEntry> entries)
    {
        Path = path;
        Entries = entries;
        _stream = stream;
        _length = stream.Length;
        _dataStart = dataStart;
        _map = MemoryMappedFile.CreateFromFile(stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        try
        {
            // Size 0 would round the view up to whole pages.
            _view = _map.CreateViewAccessor(0, _length, MemoryMappedFileAccess.Read);
        }
        catch
        {
            _map.Dispose();
            throw;
        }
    }

    public string Path { get; }
    public string Name => System.IO.Path.GetFileName(Path);
    public IReadOnlyList<SafetensorsEntry> Entries { get; }

    /// <exception cref="InvalidDataException">The file is no sound safetensors file; the message names what is wrong.</exception>
    public static SafetensorsFile Open(string path)
    {
        var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
        try
        {
            var header = ReadHeader(stream, path);
            var dataStart = 8L + header.Length;
            return new SafetensorsFile(path, stream, dataStart, SafetensorsHeader.Parse(header, stream.Length - dataStart, path));
        }
        catch
        {
            stream.Dispose();
            throw;
        }
    }

    /// <summary>Bytes of a tensor. The result keeps the map alive and must be disposed.</summary>
    public MappedBytes Map(SafetensorsEntry entry)
    {
        ObjectDisposedException.ThrowIf(_stream.SafeFileHandle.IsClosed, this);
        var length = RandomAccess.GetLength(_stream.SafeFileHandle);
        if (length < _length) throw new InvalidDataException($"{Name}: the file shrank from {_length} to {length} bytes while it was open. Download the file again.");
        return new MappedBytes(_view.SafeMemoryMappedViewHandle, checked(_dataStart + entry.Begin + _view.PointerOffset), entry.ByteLength);
    }

    public void Dispose()
    {
        _view.Dispose();
        _map.Dispose();
        _stream.Dispose();
    }

    private static byte[] ReadHeader(FileStream stream, string file)
    {
        if (stream.Length < 8) throw new InvalidDataException($"{file}: {stream.Length} bytes are too few for a safetensors file (empty or cut short). Download the file again.");
        Span<byte> prefix = stackalloc byte[8];
        stream.ReadExactly(prefix);
        if (prefix.SequenceEqual("version "u8))
        {
            throw new InvalidDataException($"{file}: this is a Git LFS pointer, not the weights. Run 'git lfs pull', or download the file.");
        }
        var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (headerLength > SafetensorsHeader.MaxBytes || headerLength > (ulong)(stream.Length - 8))
        {
            throw new InvalidDataException(
                $"{file}: a header of {headerLength} bytes is declared, but {stream.Length - 8} bytes follow and {SafetensorsHeader.MaxBytes} are allowed. Download the file again.");
        }
        var header = new byte[(int)headerLength];
        stream.ReadExactly(header);
        return header;
    }
}
