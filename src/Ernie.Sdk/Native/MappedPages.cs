using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>Advice to the system about pages of a mapped file, and what it says of them. Addresses may be any; whole pages around them are meant.</summary>
internal static unsafe partial class MappedPages
{
    private static readonly nint s_pageBytes = Environment.SystemPageSize;

    /// <summary>Whether <see cref="IsResident"/> can tell.</summary>
    public static bool CanTellResidency => !OperatingSystem.IsWindows();

    /// <summary>Asks the system to read pages that are not in memory. It may return before they are there; it never fails, for this is advice.</summary>
    public static void WillNeed(byte* start, nint bytes)
    {
        if (bytes <= 0) return;
        var first = (byte*)((nint)start & -s_pageBytes);
        var length = (nuint)(start + bytes - first);
        if (OperatingSystem.IsWindows())
        {
            var range = new MemoryRange { Address = first, Bytes = length };
            _ = PrefetchVirtualMemory(CurrentProcess, 1, &range, 0);
        }
        else
        {
            _ = MemoryAdvise(first, length, AdviceWillNeed);
        }
    }

    /// <summary>Whether the page of an address is in memory, for this or any process.</summary>
    public static bool IsResident(byte* address)
    {
        byte state;
        return MemoryInCore((byte*)((nint)address & -s_pageBytes), (nuint)s_pageBytes, &state) == 0 && (state & 1) != 0;
    }

    private const int AdviceWillNeed = 3;
    private const nint CurrentProcess = -1;

    private struct MemoryRange
    {
        public void* Address;
        public nuint Bytes;
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MemoryAdvise(void* address, nuint length, int advice);

    [LibraryImport("libc", EntryPoint = "mincore")]
    private static partial int MemoryInCore(void* address, nuint length, byte* states);

    [LibraryImport("kernel32", EntryPoint = "PrefetchVirtualMemory")]
    private static partial int PrefetchVirtualMemory(nint process, nuint count, MemoryRange* ranges, uint flags);
}
