using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace Ernie.Cli;

/// <summary>A NumPy file of float32 [rows, columns], written row by row and named only when it is complete.</summary>
/// <remarks>Format 1.0: magic, version, length of the header, the header as a Python literal, padded so that data starts at a multiple of 64 bytes.</remarks>
internal sealed class NpyFile : IDisposable
{
    private const int Alignment = 64;
    private const int PreambleBytes = 10;
    private readonly string _path;
    private readonly string _partial;
    private readonly FileStream _stream;
    private readonly long _length;
    private bool _complete;

    public NpyFile(string path, long rows, long columns)
    {
        _path = path;
        _partial = path + ".partial";
        _stream = new FileStream(_partial, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 16);
        var header = Header(rows, columns);
        _stream.Write(header);
        _length = header.Length + checked(rows * columns * sizeof(float));
    }

    public void Append(ReadOnlySpan<float> values) => _stream.Write(MemoryMarshal.AsBytes(values));

    public void Complete()
    {
        if (_stream.Position != _length) throw new InvalidOperationException($"{_path} should have {_length} bytes, but {_stream.Position} were written.");
        _stream.Dispose();
        File.Move(_partial, _path, overwrite: true);
        _complete = true;
    }

    public void Dispose()
    {
        if (_complete) return;
        _stream.Dispose();
        File.Delete(_partial);
    }

    internal static byte[] Header(long rows, long columns)
    {
        var literal = string.Create(CultureInfo.InvariantCulture, $"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        var total = (PreambleBytes + literal.Length + 1 + Alignment - 1) / Alignment * Alignment;
        var header = new byte[total];
        header.AsSpan().Fill((byte)' ');
        ReadOnlySpan<byte> magicAndVersion = [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', 1, 0];
        magicAndVersion.CopyTo(header);
        BitConverter.TryWriteBytes(header.AsSpan(8), (ushort)(total - PreambleBytes));
        Encoding.ASCII.GetBytes(literal, header.AsSpan(PreambleBytes));
        header[^1] = (byte)'\n';
        return header;
    }
}
