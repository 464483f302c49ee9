using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

/// <summary>Two 256-bit registers: lanes 0-7 and 8-15.</summary>
internal readonly unsafe struct Lanes256(Vector256<float> low, Vector256<float> high) : ILanes<Lanes256>
{
    private readonly Vector256<float> _low = low;
    private readonly Vector256<float> _high = high;

    public static string Name => "avx2";
    public static bool IsSupported => Avx2.IsSupported && Fma.IsSupported;
    public static bool HasManyRegisters => false;
    public static int PanelTokens => 4;

    public static Lanes256 Zero => new(Vector256<float>.Zero, Vector256<float>.Zero);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Broadcast(float value)
    {
        var all = Vector256.Create(value);
        return new(all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Load(float* source) => new(Vector256.Load(source), Vector256.Load(source + 8));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Load(ushort* source) => new(
        (Avx2.ConvertToVector256Int32(source) << 16).AsSingle(),
        (Avx2.ConvertToVector256Int32(source + 8) << 16).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Load(sbyte* source) => new(
        Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(source)),
        Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(source + 8)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes256 value, float* target)
    {
        value._low.Store(target);
        value._high.Store(target + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Add(Lanes256 a, Lanes256 b) => new(a._low + b._low, a._high + b._high);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Subtract(Lanes256 a, Lanes256 b) => new(a._low - b._low, a._high - b._high);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Multiply(Lanes256 a, Lanes256 b) => new(a._low * b._low, a._high * b._high);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Divide(Lanes256 a, Lanes256 b) => new(a._low / b._low, a._high / b._high);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 MultiplyAdd(Lanes256 a, Lanes256 b, Lanes256 c) => new(
        Vector256.FusedMultiplyAdd(a._low, b._low, c._low),
        Vector256.FusedMultiplyAdd(a._high, b._high, c._high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 SelectLess(Lanes256 a, Lanes256 b, Lanes256 yes, Lanes256 no) => new(
        Vector256.ConditionalSelect(Vector256.LessThan(a._low, b._low), yes._low, no._low),
        Vector256.ConditionalSelect(Vector256.LessThan(a._high, b._high), yes._high, no._high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Round(Lanes256 a) => new(Vector256.Round(a._low), Vector256.Round(a._high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Scale(Lanes256 a, Lanes256 n) => new(Scale(a._low, n._low), Scale(a._high, n._high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Lanes256 a)
    {
        var eight = a._low + a._high;
        return eight.GetLower() + eight.GetUpper();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Scale(Vector256<float> a, Vector256<float> n)
    {
        var whole = Vector256.ConvertToInt32Native(n);
        var half = whole >> 1;
        return a * Power(half) * Power(whole - half);
    }

    private static Vector256<float> Power(Vector256<int> n) => ((n + Vector256.Create(127)) << 23).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 LoadBytes(byte* source) => new(Vector256.Load(source).AsSingle(), Vector256.Load(source + 32).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 BroadcastBytes(sbyte* source)
    {
        var all = Vector256.Create(*(int*)source).AsSingle();
        return new(all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 LowNibbles(Lanes256 a) => new(
        (a._low.AsByte() & Vector256.Create((byte)15)).AsSingle(),
        (a._high.AsByte() & Vector256.Create((byte)15)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 HighNibbles(Lanes256 a) => new(
        ((a._low.AsUInt16() >>> 4).AsByte() & Vector256.Create((byte)15)).AsSingle(),
        ((a._high.AsUInt16() >>> 4).AsByte() & Vector256.Create((byte)15)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 MultiplyBytes(Lanes256 a, Lanes256 b) => new(
        Avx2.MultiplyAddAdjacent(a._low.AsByte(), b._low.AsSByte()).AsSingle(),
        Avx2.MultiplyAddAdjacent(a._high.AsByte(), b._high.AsSByte()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 AddInt16(Lanes256 a, Lanes256 b) => new((a._low.AsInt16() + b._low.AsInt16()).AsSingle(), (a._high.AsInt16() + b._high.AsInt16()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 PairSums(Lanes256 a) => new(
        Avx2.MultiplyAddAdjacent(a._low.AsInt16(), Vector256<short>.One).AsSingle(),
        Avx2.MultiplyAddAdjacent(a._high.AsInt16(), Vector256<short>.One).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 AddInt32(Lanes256 a, Lanes256 b) => new((a._low.AsInt32() + b._low.AsInt32()).AsSingle(), (a._high.AsInt32() + b._high.AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Pairs(sbyte* first, sbyte* second)
    {
        Vector128<sbyte> a = Vector128.Load(first), b = Vector128.Load(second);
        return new(Avx2.ConvertToVector256Int16(Sse2.UnpackLow(a, b)).AsSingle(), Avx2.ConvertToVector256Int16(Sse2.UnpackHigh(a, b)).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 MultiplyPairs(Lanes256 a, Lanes256 b) =>
        new(Avx2.MultiplyAddAdjacent(a._low.AsInt16(), b._low.AsInt16()).AsSingle(), Avx2.MultiplyAddAdjacent(a._high.AsInt16(), b._high.AsInt16()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreInt16(Lanes256 value, short* target) => Vector256.Narrow(Vector256.ConvertToInt32(value._low), Vector256.ConvertToInt32(value._high)).Store(target);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Times16(Lanes256 a) => new((a._low.AsInt32() << 4).AsSingle(), (a._high.AsInt32() << 4).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 ToSingle(Lanes256 a) => new(Vector256.ConvertToSingle(a._low.AsInt32()), Vector256.ConvertToSingle(a._high.AsInt32()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 LoadHalf(ushort* source) => new(Half(source), Half(source + 8));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 WidenBytes(byte* source) => new(Avx2.ConvertToVector256Int32(source).AsSingle(), Avx2.ConvertToVector256Int32(source + 8).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 BroadcastInt16(short value)
    {
        var all = Vector256.Create(value).AsSingle();
        return new(all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Wint2Values(byte* line, Lanes256 scale, Lanes256 zeroPoint)
    {
        // Rows 0-3, 8-11 | 4-7, 12-15, so that interleaving inside 128 bits gives rows 0-7 and 8-15.
        var bytes = Avx2.ConvertToVector256Int16(Sse2.Shuffle(Vector128.Load((int*)line), 0b11_01_10_00).AsByte());
        var word = bytes * scale._low.AsInt16() + zeroPoint._low.AsInt16();
        var first = (word >>> 9) | ((word << 2) & Vector256.Create((short)0x3F00));
        var second = ((word >>> 3) & Vector256.Create((short)0x3F)) | ((word << 8) & Vector256.Create((short)0x3F00));
        return new(Avx2.UnpackLow(first, second).AsSingle(), Avx2.UnpackHigh(first, second).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 FloorToInt32(Lanes256 a) => new(
        Vector256.ConvertToInt32Native(Vector256.Floor(a._low)).AsSingle(),
        Vector256.ConvertToInt32Native(Vector256.Floor(a._high)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 SpreadWord(Lanes256 word) => new(SpreadWord(word._low.AsInt32()), SpreadWord(word._high.AsInt32()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Nibble(Lanes256 a, bool high) => new(
        ((high ? a._low.AsInt32() >>> 4 : a._low.AsInt32()) & Vector256.Create(15)).AsSingle(),
        ((high ? a._high.AsInt32() >>> 4 : a._high.AsInt32()) & Vector256.Create(15)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Half(ushort* source)
    {
        // Exponent and mantissa move into a float's place; 2^112 corrects the bias, and makes subnormal halves normal.
        var wide = Avx2.ConvertToVector256Int32((short*)source);
        return ((wide << 13) & Vector256.Create(unchecked((int)0x8FFFFFFF))).AsSingle() * Vector256.Create(5.192296858534828e33f);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> SpreadWord(Vector256<int> w) =>
        (((w >> 9) & Vector256.Create(0x3F)) | ((w << 2) & Vector256.Create(0x3F00)) | ((w << 13) & Vector256.Create(0x3F0000)) | ((w << 24) & Vector256.Create(0x3F000000))).AsSingle();
}
