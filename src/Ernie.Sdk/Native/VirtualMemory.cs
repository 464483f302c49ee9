using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>
/// A reserved range of addresses whose pages come and go. Reserving costs nothing; committing makes pages usable and zero; decommitting gives them back to the system.
/// </summary>
internal sealed unsafe partial class VirtualMemory : IDisposable
{
    private readonly nuint _bytes;
    private byte* _base;

    /// <exception cref="InsufficientMemoryException">The system has no room for the range.</exception>
    public VirtualMemory(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        _bytes = checked((nuint)bytes);
        if (OperatingSystem.IsWindows())
        {
            _base = (byte*)VirtualAlloc(null, _bytes, MemReserve, PageReadWrite);
        }
        else
        {
            var flags = MapPrivate | (OperatingSystem.IsMacOS() ? DarwinMapAnonymous | DarwinMapNoReserve : LinuxMapAnonymous | LinuxMapNoReserve);
            var address = MemoryMap(null, _bytes, ProtectRead | ProtectWrite, flags, -1, 0);
            _base = address == (void*)-1 ? null : (byte*)address;
        }
        if (_base == null) throw new InsufficientMemoryException($"No address range of {bytes:N0} bytes could be reserved for the KV cache. Set a smaller ErnieModelOptions.KvCacheBytes.");
    }

    public byte* Address => _base;

    /// <summary>
    /// Advises large pages, where the system has them for the asking: pieces that lie apart are read faster where one translation covers them. A page is then taken, and zeroed, as a whole.
    /// </summary>
    public void AdviseLargePages(nint offset, nint bytes)
    {
        if (OperatingSystem.IsLinux()) _ = MemoryAdvise(_base + offset, (nuint)bytes, LinuxAdviceHugePage);
    }

    public void Commit(nint offset, nint bytes)
    {
        // Unix commits on first touch.
        if (OperatingSystem.IsWindows() && VirtualAlloc(_base + offset, (nuint)bytes, MemCommit, PageReadWrite) == null)
            throw new InsufficientMemoryException($"The system has no {bytes:N0} bytes left for the KV cache.");
    }

    /// <summary>Offset and length must be multiples of the page size.</summary>
    public void Decommit(nint offset, nint bytes)
    {
        if (OperatingSystem.IsWindows()) _ = VirtualFree(_base + offset, (nuint)bytes, MemDecommit);
        else _ = MemoryAdvise(_base + offset, (nuint)bytes, OperatingSystem.IsMacOS() ? DarwinAdviceFree : LinuxAdviceDontNeed);
    }

    public void Dispose()
    {
        if (_base == null) return;
        if (OperatingSystem.IsWindows()) _ = VirtualFree(_base, 0, MemRelease);
        else _ = MemoryUnmap(_base, _bytes);
        _base = null;
        GC.SuppressFinalize(this);
    }

    ~VirtualMemory() => Dispose();

    private const int ProtectRead = 1, ProtectWrite = 2, MapPrivate = 2;
    private const int LinuxMapAnonymous = 0x20, LinuxMapNoReserve = 0x4000, LinuxAdviceDontNeed = 4, LinuxAdviceHugePage = 14;
    private const int DarwinMapAnonymous = 0x1000, DarwinMapNoReserve = 0x40, DarwinAdviceFree = 5;
    private const uint MemCommit = 0x1000, MemReserve = 0x2000, MemDecommit = 0x4000, MemRelease = 0x8000, PageReadWrite = 4;

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial void* MemoryMap(void* address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int MemoryUnmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MemoryAdvise(void* address, nuint length, int advice);

    [LibraryImport("kernel32", EntryPoint = "VirtualAlloc")]
    private static partial void* VirtualAlloc(void* address, nuint size, uint type, uint protect);

    [LibraryImport("kernel32", EntryPoint = "VirtualFree")]
    private static partial int VirtualFree(void* address, nuint size, uint type);
}
