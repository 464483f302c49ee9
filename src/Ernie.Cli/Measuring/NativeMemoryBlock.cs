using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>Unmanaged memory, in large pages where the system has them for the asking, filled with seeded numbers.</summary>
internal sealed unsafe partial class NativeMemoryBlock : IDisposable
{
    private const int LargePage = 2 << 20;
    private const int LinuxAdviceHugePage = 14;

    public NativeMemoryBlock(nint bytes)
    {
        Bytes = bytes;
        // A block of large pages begins and ends on one.
        var isLarge = bytes >= 2 * LargePage;
        var (size, alignment) = isLarge ? ((nuint)((bytes + LargePage - 1) / LargePage * LargePage), (nuint)LargePage) : ((nuint)Math.Max(64, bytes), 4096);
        Pointer = (byte*)NativeMemory.AlignedAlloc(size, alignment);
        // Only advice: page faults and address translation are no part of what is measured.
        if (isLarge && OperatingSystem.IsLinux()) _ = MemoryAdvise(Pointer, size, LinuxAdviceHugePage);
    }

    public byte* Pointer { get; private set; }
    public nint Bytes { get; }
    public float* Floats => (float*)Pointer;

    /// <summary>bfloat16, uniform in [-scale, scale).</summary>
    public NativeMemoryBlock FillBFloat16(ulong seed, float scale, IParallelRunner runner)
    {
        Fill(runner, Bytes / 2, seed, (i, value) => ((ushort*)Pointer)[i] = BFloat16.FromSingle(value * scale));
        return this;
    }

    /// <summary>Uniform in [-scale, scale).</summary>
    public NativeMemoryBlock FillFloat(ulong seed, float scale, IParallelRunner runner)
    {
        Fill(runner, Bytes / 4, seed, (i, value) => Floats[i] = value * scale);
        return this;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(Pointer);
        Pointer = null;
    }

    private static void Fill(IParallelRunner runner, nint count, ulong seed, Action<nint, float> store)
    {
        const int piece = 1 << 20;
        runner.For((int)((count + piece - 1) / piece), item =>
        {
            var random = new RandomBits(seed << 32 | (uint)item);
            for (var i = (nint)item * piece; i < Math.Min(count, ((nint)item + 1) * piece); i++) store(i, (int)(random.Next() >> 40) / 8388608f - 1);
        });
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MemoryAdvise(void* address, nuint length, int advice);
}

/// <summary>Seeded random bits (xorshift64), fast enough to fill gigabytes.</summary>
internal struct RandomBits(ulong seed)
{
    private ulong _state = unchecked(seed * 0x9E3779B97F4A7C15) | 1;

    public ulong Next()
    {
        _state ^= _state << 13;
        _state ^= _state >> 7;
        _state ^= _state << 17;
        return _state;
    }
}
