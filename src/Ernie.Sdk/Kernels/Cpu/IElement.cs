using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Kernels;

/// <summary>A stored number, of a weight or of the cache, that widens to float exactly.</summary>
internal unsafe interface IElement
{
    static abstract int Bytes { get; }
    static abstract TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes>;
    static abstract void Store(byte* target, float value);
}

/// <summary>A stored number of the cache. Scaled ones stand for themselves times the scale of their position.</summary>
internal interface ICacheElement : IElement
{
    static abstract bool IsScaled { get; }
}

internal readonly unsafe struct Float32Element : ICacheElement
{
    public static int Bytes => 4;
    public static bool IsScaled => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);

    public static void Store(byte* target, float value) => *(float*)target = value;
}

internal readonly unsafe struct BFloat16Element : ICacheElement
{
    public static int Bytes => 2;
    public static bool IsScaled => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((ushort*)source);

    public static void Store(byte* target, float value) => *(ushort*)target = BFloat16.FromSingle(value);
}

/// <summary>-127 .. 127, the row's largest magnitude at the end of the range.</summary>
internal readonly unsafe struct Int8Element : ICacheElement
{
    public static int Bytes => 1;
    public static bool IsScaled => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((sbyte*)source);

    public static void Store(byte* target, float value) => *(sbyte*)target = (sbyte)MathF.Round(value);

    /// <summary>Scale of a row; 0 for a row of zeros, NaN where one of it is.</summary>
    public static float Scale(ReadOnlySpan<float> row)
    {
        float largest = 0;
        foreach (var value in row) largest = MathF.Max(largest, MathF.Abs(value));
        return largest / 127;
    }
}
