using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Kernels;

/// <summary>A stored number, of a weight or of the cache, that widens to float exactly.</summary>
internal unsafe interface IElement
{
    static abstract int Bytes { get; }
    static abstract TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes>;
    static abstract void Store(byte* target, float value);
}

internal readonly unsafe struct Float32Element : IElement
{
    public static int Bytes => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);

    public static void Store(byte* target, float value) => *(float*)target = value;
}

internal readonly unsafe struct BFloat16Element : IElement
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source) where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((ushort*)source);

    public static void Store(byte* target, float value) => *(ushort*)target = BFloat16.FromSingle(value);
}
