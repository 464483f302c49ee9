using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Kernels;

/// <summary>
/// Sixteen float lanes. Every implementation performs the same IEEE operations on the same lanes in the same order, so kernels written over it give equal bits
/// on every instruction set: fused multiply-add is one rounding everywhere, and there is no approximate instruction.
/// </summary>
internal unsafe interface ILanes<TSelf> where TSelf : unmanaged, ILanes<TSelf>
{
    static abstract string Name { get; }
    static abstract bool IsSupported { get; }
    /// <summary>Whether 16 accumulators and their operands fit the registers. Tiles differ by it; the order of additions does not.</summary>
    static abstract bool HasManyRegisters { get; }

    static abstract TSelf Zero { get; }
    static abstract TSelf Broadcast(float value);
    static abstract TSelf Load(float* source);
    /// <summary>Sixteen bfloat16, widened exactly.</summary>
    static abstract TSelf Load(ushort* source);
    static abstract void Store(TSelf value, float* target);

    static abstract TSelf Add(TSelf a, TSelf b);
    static abstract TSelf Subtract(TSelf a, TSelf b);
    static abstract TSelf Multiply(TSelf a, TSelf b);
    static abstract TSelf Divide(TSelf a, TSelf b);
    /// <summary>a · b + c with one rounding.</summary>
    static abstract TSelf MultiplyAdd(TSelf a, TSelf b, TSelf c);
    /// <summary>Per lane: a &lt; b ? yes : no. A NaN in a or b gives "no".</summary>
    static abstract TSelf SelectLess(TSelf a, TSelf b, TSelf yes, TSelf no);
    /// <summary>Nearest integer, ties to even.</summary>
    static abstract TSelf Round(TSelf a);
    /// <summary>a · 2^n for whole n in -252 .. 252, as two products, so that neither factor leaves the range of normal numbers.</summary>
    static abstract TSelf Scale(TSelf a, TSelf n);

    /// <summary>
    /// First half of the reduction tree: lane i of the result is (a[i] + a[i+8]) + (a[i+4] + a[i+12]).
    /// </summary>
    static abstract Vector128<float> Fold(TSelf a);
}
