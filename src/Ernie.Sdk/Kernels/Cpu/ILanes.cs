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
    /// <summary>Tokens of the largest tile of panel kernels: 2, 4 or 8, as many as the registers hold.</summary>
    static abstract int PanelTokens { get; }

    static abstract TSelf Zero { get; }
    static abstract TSelf Broadcast(float value);
    static abstract TSelf Load(float* source);
    /// <summary>Sixteen bfloat16, widened exactly.</summary>
    static abstract TSelf Load(ushort* source);
    /// <summary>Sixteen signed bytes, as floats.</summary>
    static abstract TSelf Load(sbyte* source);
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

    // The same 64 bytes as integers. Row r of a panel has bytes 4r .. 4r+3: four of its inputs, two 16-bit sums, one 32-bit sum.

    static abstract TSelf LoadBytes(byte* source);
    /// <summary>Four bytes, repeated sixteen times.</summary>
    static abstract TSelf BroadcastBytes(sbyte* source);
    /// <summary>Low four bits of every byte.</summary>
    static abstract TSelf LowNibbles(TSelf a);
    /// <summary>High four bits of every byte.</summary>
    static abstract TSelf HighNibbles(TSelf a);
    /// <summary>Unsigned bytes of a, at most 127, times signed bytes of b; neighbours are added to 32 sums of 16 bits, which the caller keeps in range.</summary>
    static abstract TSelf MultiplyBytes(TSelf a, TSelf b);
    static abstract TSelf AddInt16(TSelf a, TSelf b);
    /// <summary>Neighbouring 16-bit sums, added to sixteen of 32 bits.</summary>
    static abstract TSelf PairSums(TSelf a);
    static abstract TSelf AddInt32(TSelf a, TSelf b);
    /// <summary>Sixteen signed bytes of each as 16-bit integers, in turn: lane i has first[i] and second[i].</summary>
    static abstract TSelf Pairs(sbyte* first, sbyte* second);
    /// <summary>Products of 16-bit integers, neighbours added to sixteen sums of 32 bits.</summary>
    static abstract TSelf MultiplyPairs(TSelf a, TSelf b);
    /// <summary>Sixteen whole numbers as 16-bit integers.</summary>
    static abstract void StoreInt16(TSelf value, short* target);
    /// <summary>Sixteen 32-bit integers times 16.</summary>
    static abstract TSelf Times16(TSelf a);
    /// <summary>Sixteen 32-bit integers as float, rounded to nearest.</summary>
    static abstract TSelf ToSingle(TSelf a);
    /// <summary>Sixteen fp16, widened exactly.</summary>
    static abstract TSelf LoadHalf(ushort* source);
    /// <summary>Sixteen bytes as unsigned 32-bit integers.</summary>
    static abstract TSelf WidenBytes(byte* source);
    static abstract TSelf BroadcastInt16(short value);
    /// <summary>WINT2 values plus 32 of sixteen bytes, four a byte, under one code whose words are whole numbers below 32768: word = byte · scale + zeroPoint, both as 16-bit integers.</summary>
    static abstract TSelf Wint2Values(byte* line, TSelf scale, TSelf zeroPoint);
    /// <summary>Largest integers not above a, as 32-bit integers.</summary>
    static abstract TSelf FloorToInt32(TSelf a);
    /// <summary>Of each 32-bit word the six bits from 9, 6, 3 and 0 on, as four bytes: WINT2 values plus 32.</summary>
    static abstract TSelf SpreadWord(TSelf word);
    /// <summary>Bits 4-7, or 0-3, of sixteen 32-bit integers.</summary>
    static abstract TSelf Nibble(TSelf a, bool high);
}
