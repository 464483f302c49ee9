using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Kernels;

/// <summary>A stored number, of a weight or of the cache, that widens to float exactly.</summary>
internal unsafe interface IElement
{
    static abstract int Bytes { get; }
    static abstract TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes>;
    static abstract void Store(byte* target, float value);
}

/// <summary>A stored number of the cache, and how attention multiplies queries and weights with it. Scaled ones stand for themselves times the scale of their position.</summary>
/// <remarks>
/// Queries and weights are floats where keys and values are, and 16-bit integers where they are bytes: half the multiplications, no conversion to float, and exact sums. Those are quantised by
/// <see cref="Pack{TLanes}"/>: 15 bits and a scale of their own for each query, and for each query's weights in each block, which loses less than a thousandth of what bytes lost.
/// </remarks>
internal unsafe interface ICacheElement : IElement
{
    static abstract bool IsScaled { get; }
    /// <summary>Numbers whose products one lane adds in a single operation: a key's channels, or a channel's positions.</summary>
    static abstract int Together { get; }

    /// <summary>Makes a row ready to be multiplied, in place, and returns what the sums are to be multiplied by.</summary>
    static abstract float Pack<TLanes>(float* row, int count) where TLanes : unmanaged, ILanes<TLanes>;

    /// <summary>The next numbers of sixteen lanes: sixteen at <paramref name="source"/>, and where two are taken together sixteen that lie <paramref name="second"/> bytes after those.</summary>
    static abstract TLanes Load<TLanes>(byte* source, nint second) where TLanes : unmanaged, ILanes<TLanes>;

    static abstract TLanes MultiplyAdd<TLanes>(TLanes a, TLanes b, TLanes sum) where TLanes : unmanaged, ILanes<TLanes>;

    static abstract TLanes ToSingle<TLanes>(TLanes sum, float* scale) where TLanes : unmanaged, ILanes<TLanes>;

    /// <summary>What a sum begins with that <see cref="End{TLanes}"/> adds to <paramref name="accumulator"/>.</summary>
    static abstract TLanes Begin<TLanes>(float* accumulator) where TLanes : unmanaged, ILanes<TLanes>;

    static abstract void End<TLanes>(TLanes sum, float* scale, float* accumulator) where TLanes : unmanaged, ILanes<TLanes>;
}

internal readonly unsafe struct Float32Element : ICacheElement
{
    public static int Bytes => 4;
    public static bool IsScaled => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);

    public static void Store(byte* target, float value) => *(float*)target = value;

    public static int Together => 1;

    public static float Pack<TLanes>(float* row, int count) where TLanes : unmanaged, ILanes<TLanes> => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source, nint second) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes MultiplyAdd<TLanes>(TLanes a, TLanes b, TLanes sum) where TLanes : unmanaged, ILanes<TLanes> => TLanes.MultiplyAdd(a, b, sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes ToSingle<TLanes>(TLanes sum, float* scale) where TLanes : unmanaged, ILanes<TLanes> => sum;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Begin<TLanes>(float* accumulator) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load(accumulator);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void End<TLanes>(TLanes sum, float* scale, float* accumulator) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Store(sum, accumulator);
}

internal readonly unsafe struct BFloat16Element : ICacheElement
{
    public static int Bytes => 2;
    public static bool IsScaled => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((ushort*)source);

    public static void Store(byte* target, float value) => *(ushort*)target = BFloat16.FromSingle(value);

    public static int Together => 1;

    public static float Pack<TLanes>(float* row, int count) where TLanes : unmanaged, ILanes<TLanes> => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source, nint second) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((ushort*)source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes MultiplyAdd<TLanes>(TLanes a, TLanes b, TLanes sum) where TLanes : unmanaged, ILanes<TLanes> => TLanes.MultiplyAdd(a, b, sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes ToSingle<TLanes>(TLanes sum, float* scale) where TLanes : unmanaged, ILanes<TLanes> => sum;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Begin<TLanes>(float* accumulator) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load(accumulator);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void End<TLanes>(TLanes sum, float* scale, float* accumulator) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Store(sum, accumulator);
}

/// <summary>-127 .. 127, the row's largest magnitude at the end of the range.</summary>
internal readonly unsafe struct Int8Element : ICacheElement
{
    private const float MinNormal = 1.17549435e-38f;

    public static int Bytes => 1;
    public static bool IsScaled => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((sbyte*)source);

    public static void Store(byte* target, float value) => *(sbyte*)target = (sbyte)MathF.Round(value);

    public static int Together => 2;

    /// <summary>The row as 16-bit integers, the largest magnitude at the end of the range that sums of <paramref name="count"/> products allow; NaN as a scale where one of it is not finite.</summary>
    public static float Pack<TLanes>(float* row, int count) where TLanes : unmanaged, ILanes<TLanes>
    {
        const int lanes = LaneMath<TLanes>.Count;
        TLanes largest = TLanes.Zero, poison = TLanes.Zero;
        for (var i = 0; i < count; i += lanes)
        {
            var x = count - i >= lanes ? TLanes.Load(row + i) : LaneMath<TLanes>.LoadFirst(row + i, count - i);
            poison = TLanes.MultiplyAdd(x, TLanes.Zero, poison);
            largest = TLanes.SelectLess(largest, x, x, largest);
            var negative = TLanes.Subtract(TLanes.Zero, x);
            largest = TLanes.SelectLess(largest, negative, negative, largest);
        }
        var scale = LaneMath<TLanes>.Max(largest) / Math.Min(short.MaxValue, int.MaxValue / (sbyte.MaxValue * Math.Max(1, count)));
        var inverse = Inverse(scale);
        // Shorts fill half of what has been read: they never overtake.
        var target = (short*)row;
        var whole = count & ~(lanes - 1);
        for (var i = 0; i < whole; i += lanes) TLanes.StoreInt16(TLanes.Round(TLanes.Multiply(TLanes.Load(row + i), TLanes.Broadcast(inverse))), target + i);
        for (var i = whole; i < count; i++) target[i] = (short)(int)MathF.Round(row[i] * inverse);
        return scale + LaneMath<TLanes>.Sum(poison);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source, nint second) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Pairs((sbyte*)source, (sbyte*)source + second);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes MultiplyAdd<TLanes>(TLanes a, TLanes b, TLanes sum) where TLanes : unmanaged, ILanes<TLanes> => TLanes.AddInt32(TLanes.MultiplyPairs(a, b), sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes ToSingle<TLanes>(TLanes sum, float* scale) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Multiply(TLanes.ToSingle(sum), TLanes.Broadcast(*scale));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Begin<TLanes>(float* accumulator) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void End<TLanes>(TLanes sum, float* scale, float* accumulator) where TLanes : unmanaged, ILanes<TLanes> =>
        TLanes.Store(TLanes.MultiplyAdd(TLanes.ToSingle(sum), TLanes.Broadcast(*scale), TLanes.Load(accumulator)), accumulator);

    /// <summary>1 / scale; 0 where that is no number.</summary>
    public static float Inverse(float scale) => scale < MinNormal ? 0 : 1 / scale;

    /// <summary>Scale of a row; 0 for a row of zeros, NaN where one of it is.</summary>
    public static float Scale(ReadOnlySpan<float> row)
    {
        float largest = 0;
        foreach (var value in row) largest = MathF.Max(largest, MathF.Abs(value));
        return largest / 127;
    }
}
