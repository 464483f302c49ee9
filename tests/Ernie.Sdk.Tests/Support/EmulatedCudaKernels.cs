using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The operators as <see cref="CudaLaunches"/> computes them, with emulated kernels. Host memory plays the device's.</summary>
internal sealed unsafe class EmulatedCudaKernels : CpuKernels
{
    public override string Name => "cuda";
    public override bool IsSupported => CudaEmulation.Compiler is not null;

    /// <inheritdoc cref="CudaLaunches.Tiling"/>
    public CudaTiling? Tiling { get; init; }

    public override void Linear(in LinearArguments a, in KernelContext context)
    {
        using var launcher = new Launcher();
        new CudaLaunches(launcher) { Tiling = Tiling }.Linear(a);
    }

    public override void Experts(in ExpertsArguments a, in KernelContext context)
    {
        using var launcher = new Launcher();
        new CudaLaunches(launcher) { Tiling = Tiling }.Experts(a);
    }

    public override void Attention(in AttentionArguments a, in KernelContext context)
    {
        AttentionSteps.Prepare(a);
        var positions = a.TokenCount == 0 ? 0 : new ReadOnlySpan<int>(a.Positions, a.TokenCount).ToArray().Max() + 1;
        a.Rope.Ensure(Math.Max(0, positions - 1));
        using var angles = new NativeArray<float>((nint)positions * a.HeadDim);
        for (var p = 0; p < positions; p++) a.Rope.Row(p).CopyTo(angles.Span[(p * a.HeadDim)..]);
        using var launcher = new Launcher();
        Note(a, new CudaLaunches(launcher).Attention(a, angles.Pointer));
    }

    private static void Note(in AttentionArguments a, CudaSelection selection)
    {
        if (a.Selections is null) return;
        var group = a.HeadCount / a.KvHeadCount;
        var packs = new List<(Pack Pack, bool IsDecode, int Index)>();
        for (var i = 0; i < selection.PrefillCount + selection.DecodeCount; i++)
        {
            var pack = ((Pack*)selection.Packs)[i];
            if (pack.Count > 0) packs.Add((pack, i >= selection.PrefillCount, i < selection.PrefillCount ? i : i - selection.PrefillCount));
        }
        foreach (var (pack, isDecode, index) in packs.OrderBy(static item => item.Pack.First))
        {
            Assert.Equal(AttentionSteps.IsDecode(a, pack.Sequence), isDecode);
            if (!AttentionSteps.IsSparse(a, pack.Sequence, pack.Block)) continue;
            var first = isDecode ? a.KvHeadBegin : a.KvHeadBegin * group;
            var lists = (a.KvHeadEnd - a.KvHeadBegin) * (isDecode ? 1 : group);
            var kept = (isDecode ? selection.DecodeKept : selection.PrefillKept) + index * lists * selection.Words;
            for (var i = 0; i < lists; i++)
            {
                int[] blocks = [.. Enumerable.Range(0, 32 * selection.Words).Where(j => (kept[i * selection.Words + j / 32] >> j & 1) != 0)];
                a.Selections.Add(new BlockSelection(pack.Sequence, pack.First, pack.Count, isDecode, first + i, blocks));
            }
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct Pack(int Sequence, int First, int Count, int Block);

    private sealed class Launcher : ICudaLauncher, IDisposable
    {
        private readonly List<NativeArray<byte>> _scratch = [];

        public void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
        {
            Assert.True(grid is { X: > 0, Y: > 0 and <= 65535, Z: > 0 and <= 65535 } && sharedBytes <= 48 * 1024, $"{kernel}: a GPU has no grid {grid} with {sharedBytes} bytes of shared memory.");
            CudaEmulation.Of(file).Launch(kernel, grid, threads, sharedBytes, parameters);
        }

        public void* Scratch(long bytes)
        {
            var memory = new NativeArray<byte>((nint)bytes);
            memory.Span.Fill(0xFF);
            _scratch.Add(memory);
            return memory.Pointer;
        }

        public void Dispose() => _scratch.ForEach(static memory => memory.Dispose());
    }
}
