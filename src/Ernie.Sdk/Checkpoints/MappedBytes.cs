using System.Runtime.InteropServices;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A run of mapped bytes that cannot be unmapped while this lives.</summary>
internal readonly unsafe ref struct MappedBytes
{
    private readonly SafeBuffer _view;

    /// <summary>The caller has checked that <paramref name="offset"/> and <paramref name="length"/> lie inside the view.</summary>
    public MappedBytes(SafeBuffer view, long offset, long length)
    {
        byte* pointer = null;
        view.AcquirePointer(ref pointer);
        _view = view;
        Pointer = pointer + offset;
        Length = length;
    }

    public byte* Pointer { get; }
    public long Length { get; }

    public void Dispose() => _view.ReleasePointer();
}
