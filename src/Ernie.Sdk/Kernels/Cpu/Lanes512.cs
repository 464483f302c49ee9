using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

/// <summary>One 512-bit register.</summary>
internal readonly unsafe struct Lanes512(Vector512<float> value) : ILanes<Lanes512>
{
    private readonly Vector512<float> _value = value;

    public static string Name => "avx512";
    public static bool IsSupported => Vector512.IsHardwareAccelerated && Avx512F.IsSupported && Avx512BW.IsSupported;
    public static bool HasManyRegisters => true;
    public static int PanelTokens => 8;

    public static Lanes512 Zero => new(Vector512<float>.Zero);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Broadcast(float value) => new(Vector512.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Load(float* source) => new(Vector512.Load(source));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Load(ushort* source) => new(Vector512.ShiftLeft(Avx512F.ConvertToVector512UInt32(Vector256.Load(source)), 16).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Load(sbyte* source) => new(Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(Vector128.Load(source))));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes512 value, float* target) => value._value.Store(target);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Add(Lanes512 a, Lanes512 b) => new(a._value + b._value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Subtract(Lanes512 a, Lanes512 b) => new(a._value - b._value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Multiply(Lanes512 a, Lanes512 b) => new(a._value * b._value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Divide(Lanes512 a, Lanes512 b) => new(a._value / b._value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 MultiplyAdd(Lanes512 a, Lanes512 b, Lanes512 c) => new(Vector512.FusedMultiplyAdd(a._value, b._value, c._value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 SelectLess(Lanes512 a, Lanes512 b, Lanes512 yes, Lanes512 no) =>
        new(Vector512.ConditionalSelect(Vector512.LessThan(a._value, b._value), yes._value, no._value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Round(Lanes512 a) => new(Vector512.Round(a._value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Scale(Lanes512 a, Lanes512 n)
    {
        var whole = Vector512.ConvertToInt32Native(n._value);
        var half = whole >> 1;
        return new(a._value * Power(half) * Power(whole - half));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Lanes512 a)
    {
        var eight = a._value.GetLower() + a._value.GetUpper();
        return eight.GetLower() + eight.GetUpper();
    }

    private static Vector512<float> Power(Vector512<int> n) => ((n + Vector512.Create(127)) << 23).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 LoadBytes(byte* source) => new(Vector512.Load(source).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 BroadcastBytes(sbyte* source) => new(Vector512.Create(*(int*)source).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 LowNibbles(Lanes512 a) => new((a._value.AsByte() & Vector512.Create((byte)15)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 HighNibbles(Lanes512 a) => new(((a._value.AsUInt16() >>> 4).AsByte() & Vector512.Create((byte)15)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 MultiplyBytes(Lanes512 a, Lanes512 b) => new(Avx512BW.MultiplyAddAdjacent(a._value.AsByte(), b._value.AsSByte()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 AddInt16(Lanes512 a, Lanes512 b) => new((a._value.AsInt16() + b._value.AsInt16()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 PairSums(Lanes512 a) => new(Avx512BW.MultiplyAddAdjacent(a._value.AsInt16(), Vector512<short>.One).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 AddInt32(Lanes512 a, Lanes512 b) => new((a._value.AsInt32() + b._value.AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Pairs(sbyte* first, sbyte* second)
    {
        var wide = Avx512BW.ConvertToVector512Int16(Vector256.Create(Vector128.Load(first), Vector128.Load(second)));
        var inTurn = Vector512.Create(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, (short)31);
        return new(Avx512BW.PermuteVar32x16(wide, inTurn).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 MultiplyPairs(Lanes512 a, Lanes512 b) => new(Avx512BW.MultiplyAddAdjacent(a._value.AsInt16(), b._value.AsInt16()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreInt16(Lanes512 value, short* target) => Avx512F.ConvertToVector256Int16(Vector512.ConvertToInt32(value._value)).Store(target);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Times16(Lanes512 a) => new((a._value.AsInt32() << 4).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 ToSingle(Lanes512 a) => new(Vector512.ConvertToSingle(a._value.AsInt32()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 LoadHalf(ushort* source)
    {
        // Exponent and mantissa move into a float's place; 2^112 corrects the bias, and makes subnormal halves normal.
        var wide = Avx512F.ConvertToVector512Int32(Vector256.Load((short*)source));
        return new(((wide << 13) & Vector512.Create(unchecked((int)0x8FFFFFFF))).AsSingle() * Vector512.Create(5.192296858534828e33f));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 WidenBytes(byte* source) => new(Avx512F.ConvertToVector512Int32(Vector128.Load(source)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 BroadcastInt16(short value) => new(Vector512.Create(value).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Wint2Values(byte* line, Lanes512 scale, Lanes512 zeroPoint)
    {
        // A word in the low half of every 32 bits; what the addition leaves in the high half is not looked at.
        var bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(line)).AsInt16();
        return SpreadWord(new((bytes * scale._value.AsInt16() + zeroPoint._value.AsInt16()).AsSingle()));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 FloorToInt32(Lanes512 a) => new(Vector512.ConvertToInt32Native(Vector512.Floor(a._value)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 SpreadWord(Lanes512 word)
    {
        if (Avx512Vbmi.IsSupported)
        {
            // Byte i of the result: eight bits of its 64-bit word from the i-th of these on.
            var bits = Vector512.Create(0x20_23_26_29_00_03_06_09UL).AsByte();
            return new((Avx512Vbmi.MultiShift(bits, word._value.AsUInt64()) & Vector512.Create((byte)63)).AsSingle());
        }
        var w = word._value.AsInt32();
        return new((((w >> 9) & Vector512.Create(0x3F)) | ((w << 2) & Vector512.Create(0x3F00)) | ((w << 13) & Vector512.Create(0x3F0000)) | ((w << 24) & Vector512.Create(0x3F000000))).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Nibble(Lanes512 a, bool high) => new(((high ? a._value.AsInt32() >>> 4 : a._value.AsInt32()) & Vector512.Create(15)).AsSingle());
}
