using System.Runtime.CompilerServices;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

/// <summary>How the codes of one block of a panel (<see cref="PanelLayout"/>) become unsigned bytes that a vector unit multiplies.</summary>
/// <remarks>
/// A block is four steps of eight inputs; a step is two planes: bytes [16 rows, 4 inputs] of the even and the odd four. A weight is (code - offset) · scale, and the offset's share is
/// part of the quantised activations (<see cref="ActivationRow"/>).
/// </remarks>
internal unsafe interface IPanelFormat
{
    /// <summary>What is subtracted from the codes.</summary>
    static abstract int Offset { get; }
    static abstract nint BlockBytes { get; }
    /// <summary>Planes of different significance: 2 where a code has two nibbles, of which pass 0 has the upper one.</summary>
    static abstract int Passes { get; }
    /// <summary>Whether 16-bit sums overflow after more than one step.</summary>
    static abstract bool SumsEveryStep { get; }
    /// <summary>Whether the bytes lie in a cache already.</summary>
    static virtual bool IsUnpacked => false;
    /// <summary>The panel's code_scale, then code_zp, as the planes want them; zero for formats without.</summary>
    static abstract (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes>;
    /// <summary>Bytes [16 rows, inputs 8·step .. +3] of a block.</summary>
    static abstract TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes>;
    /// <summary>Bytes [16 rows, inputs 8·step+4 .. +7].</summary>
    static abstract TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes>;
}

/// <summary>Nibbles: at most 8 · 2 · 15 · 127 = 30480 in a 16-bit sum of a block.</summary>
internal readonly unsafe struct Int4Panels : IPanelFormat
{
    public static int Offset => 8;
    public static nint BlockBytes => 256;
    public static int Passes => 1;
    public static bool SumsEveryStep => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes> => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> =>
        TLanes.LowNibbles(TLanes.LoadBytes(block + step * 64));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> =>
        TLanes.HighNibbles(TLanes.LoadBytes(block + step * 64));
}

/// <summary>Bytes as two nibbles: a byte times a byte would overflow a 16-bit sum at once.</summary>
internal readonly unsafe struct Int8Panels : IPanelFormat
{
    public static int Offset => 128;
    public static nint BlockBytes => 512;
    public static int Passes => 2;
    public static bool SumsEveryStep => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes> => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => Nibbles<TLanes>(block + step * 128, pass);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => Nibbles<TLanes>(block + step * 128 + 64, pass);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Nibbles<TLanes>(byte* line, int pass) where TLanes : unmanaged, ILanes<TLanes> =>
        pass == 0 ? TLanes.HighNibbles(TLanes.LoadBytes(line)) : TLanes.LowNibbles(TLanes.LoadBytes(line));
}

/// <summary>WINT2 whose 16 columns share one code of small whole numbers, as our encoder writes it: words in integer arithmetic, exact in the float arithmetic of the definition, whose 0.5 changes no floor of theirs.</summary>
internal readonly unsafe struct Int2CommonPanels : IPanelFormat
{
    public static int Offset => 32;
    public static nint BlockBytes => 128;
    public static int Passes => 1;
    public static bool SumsEveryStep => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes>
    {
        var codes = (float*)(panel + layout.CodeScaleOffset);
        return (TLanes.BroadcastInt16((short)codes[0]), TLanes.BroadcastInt16((short)codes[PanelLayout.Rows]));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Wint2Values(block + step * 32, codeScale, codeZeroPoint);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Wint2Values(block + step * 32 + 16, codeScale, codeZeroPoint);

    /// <summary>Whether the panel has such a code, with words that fit 15 bits.</summary>
    public static bool Reads(byte* codes)
    {
        var scale = (float*)codes;
        var zeroPoint = scale + PanelLayout.Rows;
        if (!(scale[0] >= 0 && zeroPoint[0] >= 0 && 255 * scale[0] + zeroPoint[0] <= short.MaxValue) || scale[0] != (int)scale[0] || zeroPoint[0] != (int)zeroPoint[0]) return false;
        for (var row = 1; row < PanelLayout.Rows; row++)
        {
            if (scale[row] != scale[0] || zeroPoint[row] != zeroPoint[0]) return false;
        }
        return true;
    }
}

/// <summary>WINT2 with a code of its own in every column, as in published checkpoints: words in the float arithmetic of the definition.</summary>
internal readonly unsafe struct Int2ColumnPanels : IPanelFormat
{
    public static int Offset => 32;
    public static nint BlockBytes => 128;
    public static int Passes => 1;
    public static bool SumsEveryStep => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes>
    {
        var codes = (float*)(panel + layout.CodeScaleOffset);
        return (TLanes.Load(codes), TLanes.Load(codes + PanelLayout.Rows));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => Values(block + step * 32, codeScale, codeZeroPoint);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => Values(block + step * 32 + 16, codeScale, codeZeroPoint);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Values<TLanes>(byte* line, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes>
    {
        var product = TLanes.Multiply(TLanes.ToSingle(TLanes.WidenBytes(line)), codeScale);
        var sum = TLanes.Add(TLanes.Add(product, codeZeroPoint), TLanes.Broadcast(0.5f));
        return TLanes.SpreadWord(TLanes.FloorToInt32(sum));
    }
}

/// <summary>The planes of another format, written out once for many tokens.</summary>
internal readonly unsafe struct UnpackedPanels<TFormat> : IPanelFormat where TFormat : unmanaged, IPanelFormat
{
    public static int Offset => TFormat.Offset;
    public static nint BlockBytes => 512;
    public static int Passes => 1;
    public static bool SumsEveryStep => TFormat.SumsEveryStep;
    public static bool IsUnpacked => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (TLanes Scale, TLanes ZeroPoint) Codes<TLanes>(byte* panel, in PanelLayout layout) where TLanes : unmanaged, ILanes<TLanes> => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Even<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => TLanes.LoadBytes(block + step * 128);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Odd<TLanes>(byte* block, nint step, int pass, TLanes codeScale, TLanes codeZeroPoint) where TLanes : unmanaged, ILanes<TLanes> => TLanes.LoadBytes(block + step * 128 + 64);
}
