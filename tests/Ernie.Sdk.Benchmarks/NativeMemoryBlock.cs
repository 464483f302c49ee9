using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Benchmarks;

/// <summary>Unmanaged memory filled with seeded numbers.</summary>
internal sealed unsafe class NativeMemoryBlock(nint bytes) : IDisposable
{
    public byte* Pointer { get; } = (byte*)NativeMemory.AlignedAlloc((nuint)bytes, 4096);
    public nint Bytes => bytes;
    public float* Floats => (float*)Pointer;

    /// <summary>bfloat16, uniform in [-scale, scale).</summary>
    public NativeMemoryBlock FillBFloat16(ulong seed, float scale, IParallelRunner runner)
    {
        Fill(runner, bytes / 2, seed, (i, value) => ((ushort*)Pointer)[i] = BFloat16.FromSingle(value * scale));
        return this;
    }

    public NativeMemoryBlock FillFloat(ulong seed, float scale, IParallelRunner runner)
    {
        Fill(runner, bytes / 4, seed, (i, value) => Floats[i] = value * scale);
        return this;
    }

    public void Dispose() => NativeMemory.AlignedFree(Pointer);

    private static void Fill(IParallelRunner runner, nint count, ulong seed, Action<nint, float> store)
    {
        const int piece = 1 << 20;
        runner.For((int)((count + piece - 1) / piece), item =>
        {
            var state = (seed << 32 | (uint)item) * 0x9E3779B97F4A7C15 | 1;
            for (var i = (nint)item * piece; i < Math.Min(count, ((nint)item + 1) * piece); i++)
            {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                store(i, (int)(state >> 40) / 8388608f - 1);
            }
        });
    }
}
