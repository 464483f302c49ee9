using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

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

    /// <summary>A stack of weights of about uniform distribution in [-scale, scale); packed ones have random codes.</summary>
    public static NativeMemoryBlock Weights(WeightFormat format, int sections, int sectionRows, int columns, float scale, IParallelRunner runner)
    {
        var block = new NativeMemoryBlock((nint)format.Bytes(sections, sectionRows, columns));
        if (!format.IsPacked) return format == WeightFormat.Float32 ? block.FillFloat(4, scale, runner) : block.FillBFloat16(4, scale, runner);
        var layout = new PanelLayout(format, columns);
        runner.For((int)(block.Bytes / layout.PanelBytes), item =>
        {
            var panel = new Span<byte>(block.Pointer + item * (nint)layout.PanelBytes, (int)layout.PanelBytes);
            new Random(item).NextBytes(panel);
            if (format.Kind == WeightKind.Int2)
            {
                var codes = MemoryMarshal.Cast<byte, float>(panel[(int)layout.CodeScaleOffset..]);
                codes[..PanelLayout.Rows].Fill(121);
                codes.Slice(PanelLayout.Rows, PanelLayout.Rows).Fill(800);
                codes.Slice(2 * PanelLayout.Rows, PanelLayout.Rows).Fill(scale / 200);
                return;
            }
            var step = scale / (format.Kind == WeightKind.Int4 ? 8 : 128);
            var scales = panel[(int)layout.ScaleOffset..];
            if (format.Group == 0) MemoryMarshal.Cast<byte, float>(scales)[..PanelLayout.Rows].Fill(step);
            else MemoryMarshal.Cast<byte, Half>(scales).Fill((Half)step);
        });
        return block;
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
