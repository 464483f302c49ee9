using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Products of one panel of packed weights with token rows, the inner part of Linear and Experts
//      panel  16 rows × K             PanelLayout
//      x      tokens × [K]            ActivationRow
//      y      [tokens, 16]            float
//  Math       per row and token: y = Σ over groups, in order, by fused multiply-add, of s · scale[group];  s = offset's share + Σ over the group's blocks, in order, by fused
//             multiply-add, of float(Σ codes · x codes) · x scale.  The sum inside a block is whole numbers and exact. int2: y is multiplied by super_scale at the end.
//             Tiles only choose which tokens share a load of the weights, so no output depends on its neighbours.
//  Source     int8 dot products of llama.cpp and MLAS (vpmaddubsw into 16 bits), with 16 rows across the lanes, so that no sum goes across them
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5 + 1e-5 · |y| at K = 4096 and |W · x| of order 1; equal bits for any tile and instruction set
internal static unsafe class PanelTiles<TLanes, TFormat>
    where TLanes : unmanaged, ILanes<TLanes>
    where TFormat : unmanaged, IPanelFormat
{
    /// <summary>Tokens of one call: their activations stay in the second cache while a work item's panels pass over them.</summary>
    public const int MaxTokens = 32;
    /// <summary>From so many tokens on, unpacking a panel once pays for writing the bytes.</summary>
    private static int UnpackTokens => TFormat.SumsEveryStep ? 3 : 17;
    /// <summary>Bytes of an unpacked panel that threads of any host have room for on their stacks: 8192 inputs.</summary>
    private const int MaxUnpackedBytes = 128 << 10;
    /// <summary>Sums of a group and a token that wait for their scales, 16 KB.</summary>
    private const int MaxSums = 256;
    /// <summary>
    /// How far ahead of its use a line is asked for. So near that the requests stay in step with the processor's own, which then runs far ahead; asked for from 640 bytes on, a line is one of the few that the
    /// first cache can wait for, and one thread gets half of what it reads from memory.
    /// </summary>
    private const int NearBytes = 448;
    /// <summary>With 4 tokens or more a line takes so long that the processor's own requests fall behind: these go into the second cache.</summary>
    private const int FarBytes = 4608;

    /// <summary>y [tokens, 16] of at most <see cref="MaxTokens"/> tokens.</summary>
    public static void Products(byte* panel, in PanelLayout layout, byte** rows, int tokenCount, float* y)
    {
        if (TFormat.Passes == 1 && tokenCount >= UnpackTokens && layout.BlockCount * UnpackedPanels<TFormat>.BlockBytes <= MaxUnpackedBytes) Unpacked(panel, layout, rows, tokenCount, y);
        else Tiles(panel, panel, layout, rows, tokenCount, y);
        Finish(panel, layout, tokenCount, y);
    }

    /// <summary>The last factor of int2.</summary>
    private static void Finish(byte* panel, in PanelLayout layout, int tokenCount, float* y)
    {
        if (layout.Format.Kind != WeightKind.Int2) return;
        var super = TLanes.Load((float*)(panel + layout.SuperScaleOffset));
        for (var t = 0; t < tokenCount; t++) TLanes.Store(TLanes.Multiply(TLanes.Load(y + t * PanelLayout.Rows), super), y + t * PanelLayout.Rows);
    }

    [SkipLocalsInit]
    private static void Unpacked(byte* panel, in PanelLayout layout, byte** rows, int tokenCount, float* y)
    {
        var room = stackalloc byte[(int)layout.BlockCount * (int)UnpackedPanels<TFormat>.BlockBytes + 63];
        var planes = (byte*)(((nint)room + 63) & ~63);
        var (codeScale, codeZero) = TFormat.Codes<TLanes>(panel, layout);
        var target = planes;
        for (nint b = 0; b < (nint)layout.BlockCount; b++)
        {
            var block = panel + b * TFormat.BlockBytes;
            for (nint step = 0; step < 4; step++, target += 128)
            {
                Prefetch(block, step, MaxTokens);
                TLanes.Store(TFormat.Even(block, step, 0, codeScale, codeZero), (float*)target);
                TLanes.Store(TFormat.Odd(block, step, 0, codeScale, codeZero), (float*)(target + 64));
            }
        }
        PanelTiles<TLanes, UnpackedPanels<TFormat>>.Tiles(planes, panel, layout, rows, tokenCount, y);
    }

    /// <summary>y without the last factor of int2; <paramref name="blocks"/> are the panel's codes or what they unpack to.</summary>
    [SkipLocalsInit]
    internal static void Tiles(byte* blocks, byte* panel, in PanelLayout layout, byte** rows, int tokenCount, float* y)
    {
        var padded = stackalloc byte*[8];
        var sums = stackalloc float[MaxSums * PanelLayout.Rows];
        nint groups = (nint)layout.GroupCount, perGroup = GroupBlocks(layout);
        for (var t = 0; t < tokenCount;)
        {
            // Where a tile has fewer tokens than its name, the last one is repeated; what it gives lies behind the others and is not read.
            var left = tokenCount - t;
            var size = TLanes.PanelTokens == 8 && left >= 7 ? 8 : TLanes.PanelTokens >= 4 && left >= 3 ? 4 : Math.Min(left, 2);
            var tile = rows + t;
            if (left < size)
            {
                for (var i = 0; i < size; i++) padded[i] = tile[Math.Min(i, left - 1)];
                tile = padded;
            }
            var target = y + t * PanelLayout.Rows;
            if (size == 8)
            {
                Tile8(blocks, panel, layout, tile, target);
            }
            else if (size == 4)
            {
                Tile4(blocks, panel, layout, tile, target);
            }
            else
            {
                // With so few tokens memory is what counts, and it is read in its order: the scales, which lie behind the codes, wait until all groups, or as many as there is room for, have their sums.
                for (nint first = 0, count; first < groups; first += count)
                {
                    count = Math.Min(groups - first, MaxSums / size);
                    var block = blocks + first * perGroup * TFormat.BlockBytes;
                    var blockCount = Math.Min(count * perGroup, (nint)layout.BlockCount - first * perGroup);
                    var x = first * perGroup * ActivationRow.RecordBytes;
                    if (size == 2)
                    {
                        Tile2(block, blockCount, panel, layout, tile, x, sums);
                        Scale2(panel, layout, first, count, sums, target);
                    }
                    else
                    {
                        Tile1(block, blockCount, panel, layout, tile, x, sums);
                        Scale1(panel, layout, first, count, sums, target);
                    }
                }
            }
            t += size;
        }
    }

    /// <summary>1 token: sums [groups, 1, 16] of the groups that <paramref name="blocks"/> make.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile1(byte* block, nint blocks, byte* panel, in PanelLayout layout, byte** rows, nint x, float* sums)
    {
        byte* x0 = rows[0];
        var (codeScale, codeZero) = TFormat.Codes<TLanes>(panel, layout);
        var perGroup = GroupBlocks(layout);
        for (; blocks > 0; blocks -= perGroup, sums += PanelLayout.Rows)
        {
            var s0 = TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.CorrectionOffset));
            for (var end = block + Math.Min(blocks, perGroup) * TFormat.BlockBytes; block < end; block += TFormat.BlockBytes, x += ActivationRow.RecordBytes)
            {
                TLanes i0 = TLanes.Zero;
                for (var pass = 0; pass < TFormat.Passes; pass++)
                {
                    TLanes a0 = TLanes.Zero;
                    for (nint step = 0; step < 4; step++)
                    {
                        if (pass == 0) Prefetch(block, step, 1);
                        var w = TFormat.Even(block, step, pass, codeScale, codeZero);
                        a0 = TFormat.SumsEveryStep ? First(w, x0 + x + 8 * step) : Add(a0, w, x0 + x + 8 * step);
                        w = TFormat.Odd(block, step, pass, codeScale, codeZero);
                        a0 = Add(a0, w, x0 + x + 8 * step + 4);
                        if (!TFormat.SumsEveryStep) continue;
                        i0 = TLanes.AddInt32(i0, TLanes.PairSums(a0));
                    }
                    if (TFormat.SumsEveryStep) continue;
                    i0 = Sum(i0, a0, pass);
                }
                s0 = TLanes.MultiplyAdd(TLanes.ToSingle(i0), TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.ScaleOffset)), s0);
            }
            TLanes.Store(s0, sums);
        }
    }

    /// <summary>2 tokens: sums [groups, 2, 16] of the groups that <paramref name="blocks"/> make.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile2(byte* block, nint blocks, byte* panel, in PanelLayout layout, byte** rows, nint x, float* sums)
    {
        byte* x0 = rows[0], x1 = rows[1];
        var (codeScale, codeZero) = TFormat.Codes<TLanes>(panel, layout);
        var perGroup = GroupBlocks(layout);
        for (; blocks > 0; blocks -= perGroup, sums += 2 * PanelLayout.Rows)
        {
            var s0 = TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.CorrectionOffset));
            var s1 = TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.CorrectionOffset));
            for (var end = block + Math.Min(blocks, perGroup) * TFormat.BlockBytes; block < end; block += TFormat.BlockBytes, x += ActivationRow.RecordBytes)
            {
                TLanes i0 = TLanes.Zero, i1 = TLanes.Zero;
                for (var pass = 0; pass < TFormat.Passes; pass++)
                {
                    TLanes a0 = TLanes.Zero, a1 = TLanes.Zero;
                    for (nint step = 0; step < 4; step++)
                    {
                        if (pass == 0) Prefetch(block, step, 2);
                        var w = TFormat.Even(block, step, pass, codeScale, codeZero);
                        a0 = TFormat.SumsEveryStep ? First(w, x0 + x + 8 * step) : Add(a0, w, x0 + x + 8 * step);
                        a1 = TFormat.SumsEveryStep ? First(w, x1 + x + 8 * step) : Add(a1, w, x1 + x + 8 * step);
                        w = TFormat.Odd(block, step, pass, codeScale, codeZero);
                        a0 = Add(a0, w, x0 + x + 8 * step + 4);
                        a1 = Add(a1, w, x1 + x + 8 * step + 4);
                        if (!TFormat.SumsEveryStep) continue;
                        i0 = TLanes.AddInt32(i0, TLanes.PairSums(a0));
                        i1 = TLanes.AddInt32(i1, TLanes.PairSums(a1));
                    }
                    if (TFormat.SumsEveryStep) continue;
                    i0 = Sum(i0, a0, pass);
                    i1 = Sum(i1, a1, pass);
                }
                s0 = TLanes.MultiplyAdd(TLanes.ToSingle(i0), TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.ScaleOffset)), s0);
                s1 = TLanes.MultiplyAdd(TLanes.ToSingle(i1), TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.ScaleOffset)), s1);
            }
            TLanes.Store(s0, sums);
            TLanes.Store(s1, sums + PanelLayout.Rows);
        }
    }

    /// <summary>4 tokens: y [4, 16].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile4(byte* block, byte* panel, in PanelLayout layout, byte** rows, float* y)
    {
        byte* x0 = rows[0], x1 = rows[1], x2 = rows[2], x3 = rows[3];
        var (codeScale, codeZero) = TFormat.Codes<TLanes>(panel, layout);
        nint blocks = (nint)layout.BlockCount, perGroup = GroupBlocks(layout);
        nint x = 0;
        TLanes.Store(TLanes.Zero, y);
        TLanes.Store(TLanes.Zero, y + 16);
        TLanes.Store(TLanes.Zero, y + 32);
        TLanes.Store(TLanes.Zero, y + 48);
        for (nint group = 0; blocks > 0; group++, blocks -= perGroup)
        {
            var s0 = TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.CorrectionOffset));
            var s1 = TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.CorrectionOffset));
            var s2 = TLanes.Broadcast(*(float*)(x2 + x + ActivationRow.CorrectionOffset));
            var s3 = TLanes.Broadcast(*(float*)(x3 + x + ActivationRow.CorrectionOffset));
            for (var end = block + Math.Min(blocks, perGroup) * TFormat.BlockBytes; block < end; block += TFormat.BlockBytes, x += ActivationRow.RecordBytes)
            {
                TLanes i0 = TLanes.Zero, i1 = TLanes.Zero, i2 = TLanes.Zero, i3 = TLanes.Zero;
                for (var pass = 0; pass < TFormat.Passes; pass++)
                {
                    TLanes a0 = TLanes.Zero, a1 = TLanes.Zero, a2 = TLanes.Zero, a3 = TLanes.Zero;
                    for (nint step = 0; step < 4; step++)
                    {
                        if (pass == 0) Prefetch(block, step, 4);
                        var w = TFormat.Even(block, step, pass, codeScale, codeZero);
                        a0 = TFormat.SumsEveryStep ? First(w, x0 + x + 8 * step) : Add(a0, w, x0 + x + 8 * step);
                        a1 = TFormat.SumsEveryStep ? First(w, x1 + x + 8 * step) : Add(a1, w, x1 + x + 8 * step);
                        a2 = TFormat.SumsEveryStep ? First(w, x2 + x + 8 * step) : Add(a2, w, x2 + x + 8 * step);
                        a3 = TFormat.SumsEveryStep ? First(w, x3 + x + 8 * step) : Add(a3, w, x3 + x + 8 * step);
                        w = TFormat.Odd(block, step, pass, codeScale, codeZero);
                        a0 = Add(a0, w, x0 + x + 8 * step + 4);
                        a1 = Add(a1, w, x1 + x + 8 * step + 4);
                        a2 = Add(a2, w, x2 + x + 8 * step + 4);
                        a3 = Add(a3, w, x3 + x + 8 * step + 4);
                        if (!TFormat.SumsEveryStep) continue;
                        i0 = TLanes.AddInt32(i0, TLanes.PairSums(a0));
                        i1 = TLanes.AddInt32(i1, TLanes.PairSums(a1));
                        i2 = TLanes.AddInt32(i2, TLanes.PairSums(a2));
                        i3 = TLanes.AddInt32(i3, TLanes.PairSums(a3));
                    }
                    if (TFormat.SumsEveryStep) continue;
                    i0 = Sum(i0, a0, pass);
                    i1 = Sum(i1, a1, pass);
                    i2 = Sum(i2, a2, pass);
                    i3 = Sum(i3, a3, pass);
                }
                s0 = TLanes.MultiplyAdd(TLanes.ToSingle(i0), TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.ScaleOffset)), s0);
                s1 = TLanes.MultiplyAdd(TLanes.ToSingle(i1), TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.ScaleOffset)), s1);
                s2 = TLanes.MultiplyAdd(TLanes.ToSingle(i2), TLanes.Broadcast(*(float*)(x2 + x + ActivationRow.ScaleOffset)), s2);
                s3 = TLanes.MultiplyAdd(TLanes.ToSingle(i3), TLanes.Broadcast(*(float*)(x3 + x + ActivationRow.ScaleOffset)), s3);
            }
            PrefetchNext(panel, layout, group);
            var scale = Scale(panel, layout, group);
            Accumulate(s0, scale, y);
            Accumulate(s1, scale, y + 16);
            Accumulate(s2, scale, y + 32);
            Accumulate(s3, scale, y + 48);
        }
    }

    /// <summary>8 tokens: y [8, 16].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile8(byte* block, byte* panel, in PanelLayout layout, byte** rows, float* y)
    {
        byte* x0 = rows[0], x1 = rows[1], x2 = rows[2], x3 = rows[3], x4 = rows[4], x5 = rows[5], x6 = rows[6], x7 = rows[7];
        var (codeScale, codeZero) = TFormat.Codes<TLanes>(panel, layout);
        nint blocks = (nint)layout.BlockCount, perGroup = GroupBlocks(layout);
        nint x = 0;
        TLanes.Store(TLanes.Zero, y);
        TLanes.Store(TLanes.Zero, y + 16);
        TLanes.Store(TLanes.Zero, y + 32);
        TLanes.Store(TLanes.Zero, y + 48);
        TLanes.Store(TLanes.Zero, y + 64);
        TLanes.Store(TLanes.Zero, y + 80);
        TLanes.Store(TLanes.Zero, y + 96);
        TLanes.Store(TLanes.Zero, y + 112);
        for (nint group = 0; blocks > 0; group++, blocks -= perGroup)
        {
            var s0 = TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.CorrectionOffset));
            var s1 = TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.CorrectionOffset));
            var s2 = TLanes.Broadcast(*(float*)(x2 + x + ActivationRow.CorrectionOffset));
            var s3 = TLanes.Broadcast(*(float*)(x3 + x + ActivationRow.CorrectionOffset));
            var s4 = TLanes.Broadcast(*(float*)(x4 + x + ActivationRow.CorrectionOffset));
            var s5 = TLanes.Broadcast(*(float*)(x5 + x + ActivationRow.CorrectionOffset));
            var s6 = TLanes.Broadcast(*(float*)(x6 + x + ActivationRow.CorrectionOffset));
            var s7 = TLanes.Broadcast(*(float*)(x7 + x + ActivationRow.CorrectionOffset));
            for (var end = block + Math.Min(blocks, perGroup) * TFormat.BlockBytes; block < end; block += TFormat.BlockBytes, x += ActivationRow.RecordBytes)
            {
                TLanes i0 = TLanes.Zero, i1 = TLanes.Zero, i2 = TLanes.Zero, i3 = TLanes.Zero, i4 = TLanes.Zero, i5 = TLanes.Zero, i6 = TLanes.Zero, i7 = TLanes.Zero;
                for (var pass = 0; pass < TFormat.Passes; pass++)
                {
                    TLanes a0 = TLanes.Zero, a1 = TLanes.Zero, a2 = TLanes.Zero, a3 = TLanes.Zero, a4 = TLanes.Zero, a5 = TLanes.Zero, a6 = TLanes.Zero, a7 = TLanes.Zero;
                    for (nint step = 0; step < 4; step++)
                    {
                        if (pass == 0) Prefetch(block, step, 8);
                        var w = TFormat.Even(block, step, pass, codeScale, codeZero);
                        a0 = TFormat.SumsEveryStep ? First(w, x0 + x + 8 * step) : Add(a0, w, x0 + x + 8 * step);
                        a1 = TFormat.SumsEveryStep ? First(w, x1 + x + 8 * step) : Add(a1, w, x1 + x + 8 * step);
                        a2 = TFormat.SumsEveryStep ? First(w, x2 + x + 8 * step) : Add(a2, w, x2 + x + 8 * step);
                        a3 = TFormat.SumsEveryStep ? First(w, x3 + x + 8 * step) : Add(a3, w, x3 + x + 8 * step);
                        a4 = TFormat.SumsEveryStep ? First(w, x4 + x + 8 * step) : Add(a4, w, x4 + x + 8 * step);
                        a5 = TFormat.SumsEveryStep ? First(w, x5 + x + 8 * step) : Add(a5, w, x5 + x + 8 * step);
                        a6 = TFormat.SumsEveryStep ? First(w, x6 + x + 8 * step) : Add(a6, w, x6 + x + 8 * step);
                        a7 = TFormat.SumsEveryStep ? First(w, x7 + x + 8 * step) : Add(a7, w, x7 + x + 8 * step);
                        w = TFormat.Odd(block, step, pass, codeScale, codeZero);
                        a0 = Add(a0, w, x0 + x + 8 * step + 4);
                        a1 = Add(a1, w, x1 + x + 8 * step + 4);
                        a2 = Add(a2, w, x2 + x + 8 * step + 4);
                        a3 = Add(a3, w, x3 + x + 8 * step + 4);
                        a4 = Add(a4, w, x4 + x + 8 * step + 4);
                        a5 = Add(a5, w, x5 + x + 8 * step + 4);
                        a6 = Add(a6, w, x6 + x + 8 * step + 4);
                        a7 = Add(a7, w, x7 + x + 8 * step + 4);
                        if (!TFormat.SumsEveryStep) continue;
                        i0 = TLanes.AddInt32(i0, TLanes.PairSums(a0));
                        i1 = TLanes.AddInt32(i1, TLanes.PairSums(a1));
                        i2 = TLanes.AddInt32(i2, TLanes.PairSums(a2));
                        i3 = TLanes.AddInt32(i3, TLanes.PairSums(a3));
                        i4 = TLanes.AddInt32(i4, TLanes.PairSums(a4));
                        i5 = TLanes.AddInt32(i5, TLanes.PairSums(a5));
                        i6 = TLanes.AddInt32(i6, TLanes.PairSums(a6));
                        i7 = TLanes.AddInt32(i7, TLanes.PairSums(a7));
                    }
                    if (TFormat.SumsEveryStep) continue;
                    i0 = Sum(i0, a0, pass);
                    i1 = Sum(i1, a1, pass);
                    i2 = Sum(i2, a2, pass);
                    i3 = Sum(i3, a3, pass);
                    i4 = Sum(i4, a4, pass);
                    i5 = Sum(i5, a5, pass);
                    i6 = Sum(i6, a6, pass);
                    i7 = Sum(i7, a7, pass);
                }
                s0 = TLanes.MultiplyAdd(TLanes.ToSingle(i0), TLanes.Broadcast(*(float*)(x0 + x + ActivationRow.ScaleOffset)), s0);
                s1 = TLanes.MultiplyAdd(TLanes.ToSingle(i1), TLanes.Broadcast(*(float*)(x1 + x + ActivationRow.ScaleOffset)), s1);
                s2 = TLanes.MultiplyAdd(TLanes.ToSingle(i2), TLanes.Broadcast(*(float*)(x2 + x + ActivationRow.ScaleOffset)), s2);
                s3 = TLanes.MultiplyAdd(TLanes.ToSingle(i3), TLanes.Broadcast(*(float*)(x3 + x + ActivationRow.ScaleOffset)), s3);
                s4 = TLanes.MultiplyAdd(TLanes.ToSingle(i4), TLanes.Broadcast(*(float*)(x4 + x + ActivationRow.ScaleOffset)), s4);
                s5 = TLanes.MultiplyAdd(TLanes.ToSingle(i5), TLanes.Broadcast(*(float*)(x5 + x + ActivationRow.ScaleOffset)), s5);
                s6 = TLanes.MultiplyAdd(TLanes.ToSingle(i6), TLanes.Broadcast(*(float*)(x6 + x + ActivationRow.ScaleOffset)), s6);
                s7 = TLanes.MultiplyAdd(TLanes.ToSingle(i7), TLanes.Broadcast(*(float*)(x7 + x + ActivationRow.ScaleOffset)), s7);
            }
            PrefetchNext(panel, layout, group);
            var scale = Scale(panel, layout, group);
            Accumulate(s0, scale, y);
            Accumulate(s1, scale, y + 16);
            Accumulate(s2, scale, y + 32);
            Accumulate(s3, scale, y + 48);
            Accumulate(s4, scale, y + 64);
            Accumulate(s5, scale, y + 80);
            Accumulate(s6, scale, y + 96);
            Accumulate(s7, scale, y + 112);
        }
    }

    /// <summary>w · x[0..3] in 16 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes First(TLanes w, byte* x) => TLanes.MultiplyBytes(w, TLanes.BroadcastBytes((sbyte*)x));

    /// <summary>a + w · x[0..3] in 16 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Add(TLanes a, TLanes w, byte* x) => TLanes.AddInt16(a, First(w, x));

    /// <summary>y += s · scale.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate(TLanes s, TLanes scale, float* y) => TLanes.Store(TLanes.MultiplyAdd(s, scale, TLanes.Load(y)), y);

    /// <summary>The 16-bit sums of a pass as 32-bit ones; the upper nibbles of pass 0 count sixteenfold.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Sum(TLanes sum, TLanes a, int pass)
    {
        var pairs = TLanes.PairSums(a);
        if (TFormat.Passes == 1) return pairs;
        return pass == 0 ? TLanes.Times16(pairs) : TLanes.AddInt32(sum, pairs);
    }

    /// <summary>y [1, 16] += sums [count, 1, 16] · scales of the groups from <paramref name="first"/> on, in order; the first of all begins with zero.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scale1(byte* panel, in PanelLayout layout, nint first, nint count, float* sums, float* y)
    {
        var y0 = first == 0 ? TLanes.Zero : TLanes.Load(y);
        for (var end = first + count; first < end; first++, sums += PanelLayout.Rows)
        {
            Prefetch(panel, layout, first);
            y0 = TLanes.MultiplyAdd(TLanes.Load(sums), Scale(panel, layout, first), y0);
        }
        TLanes.Store(y0, y);
    }

    /// <summary>The same of two tokens: sums [count, 2, 16].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scale2(byte* panel, in PanelLayout layout, nint first, nint count, float* sums, float* y)
    {
        TLanes y0 = first == 0 ? TLanes.Zero : TLanes.Load(y), y1 = first == 0 ? TLanes.Zero : TLanes.Load(y + PanelLayout.Rows);
        for (var end = first + count; first < end; first++, sums += 2 * PanelLayout.Rows)
        {
            Prefetch(panel, layout, first);
            var scale = Scale(panel, layout, first);
            y0 = TLanes.MultiplyAdd(TLanes.Load(sums), scale, y0);
            y1 = TLanes.MultiplyAdd(TLanes.Load(sums + PanelLayout.Rows), scale, y1);
        }
        TLanes.Store(y0, y);
        TLanes.Store(y1, y + PanelLayout.Rows);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Scale(byte* panel, in PanelLayout layout, nint group)
    {
        var scales = panel + ScaleOffset(layout, group);
        if (layout.Format.Kind == WeightKind.Int2) return TLanes.ToSingle(TLanes.Nibble(TLanes.WidenBytes(scales), (group & 1) == 0));
        return layout.Format.Group == 0 ? TLanes.Load((float*)scales) : TLanes.LoadHalf((ushort*)scales);
    }

    /// <summary>Blocks of a group.</summary>
    private static nint GroupBlocks(in PanelLayout layout) => (nint)layout.GroupColumns / PanelLayout.BlockColumns;

    /// <summary>Asks for lines that a step will read soon. Past the last panel the hint has no effect.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(byte* block, nint step, int tokens)
    {
        if (!Sse.IsSupported || TFormat.IsUnpacked) return;
        var bytes = (int)TFormat.BlockBytes / 4;
        if (bytes < 64 && (step & 1) != 0) return;
        Sse.Prefetch0(block + step * bytes + NearBytes);
        if (bytes == 128) Sse.Prefetch0(block + step * bytes + 64 + NearBytes);
        if (tokens < 4) return;
        Sse.Prefetch1(block + step * bytes + FarBytes);
        if (bytes == 128) Sse.Prefetch1(block + step * bytes + 64 + FarBytes);
    }

    /// <summary>The same where a group's scales lie, so that the next panel's codes go on in the order of the lines.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(byte* panel, in PanelLayout layout, nint group)
    {
        if (Sse.IsSupported) Sse.Prefetch0(panel + ScaleOffset(layout, group) + NearBytes);
    }

    /// <summary>Asks for the next panel's scales of a group, where they are used between codes: out of the order of the lines, each would be waited for.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void PrefetchNext(byte* panel, in PanelLayout layout, nint group)
    {
        if (Sse.IsSupported && !TFormat.IsUnpacked) Sse.Prefetch1(panel + (nint)layout.PanelBytes + ScaleOffset(layout, group));
    }

    /// <summary>Where a group's scales lie in a panel; two groups of int2 share theirs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static nint ScaleOffset(in PanelLayout layout, nint group) => (nint)layout.ScaleOffset + (layout.Format.Kind == WeightKind.Int2 ? (group >> 1) * PanelLayout.Rows : group * PanelLayout.Rows * 2);
}
