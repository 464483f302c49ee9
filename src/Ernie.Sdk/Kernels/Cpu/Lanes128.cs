using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Kernels;

/// <summary>Four 128-bit registers, lanes 0-3 to 12-15: NEON, or any machine at all. Where the hardware has no fused multiply-add, .NET computes it in software, slowly and with the same bits.</summary>
internal readonly unsafe struct Lanes128(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d) : ILanes<Lanes128>
{
    private readonly Vector128<float> _a = a;
    private readonly Vector128<float> _b = b;
    private readonly Vector128<float> _c = c;
    private readonly Vector128<float> _d = d;

    public static string Name => "vector128";
    public static bool IsSupported => true;
    public static bool HasManyRegisters => false;
    public static int PanelTokens => AdvSimd.IsSupported ? 4 : 2;

    public static Lanes128 Zero => new(Vector128<float>.Zero, Vector128<float>.Zero, Vector128<float>.Zero, Vector128<float>.Zero);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Broadcast(float value)
    {
        var all = Vector128.Create(value);
        return new(all, all, all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Load(float* source) => new(
        Vector128.Load(source),
        Vector128.Load(source + 4),
        Vector128.Load(source + 8),
        Vector128.Load(source + 12));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Load(ushort* source)
    {
        var (a, b) = Vector128.Widen(Vector128.Load(source));
        var (c, d) = Vector128.Widen(Vector128.Load(source + 8));
        return new((a << 16).AsSingle(), (b << 16).AsSingle(), (c << 16).AsSingle(), (d << 16).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Load(sbyte* source)
    {
        var (low, high) = Vector128.Widen(Vector128.Load(source));
        var ((a, b), (c, d)) = (Vector128.Widen(low), Vector128.Widen(high));
        return new(Vector128.ConvertToSingle(a), Vector128.ConvertToSingle(b), Vector128.ConvertToSingle(c), Vector128.ConvertToSingle(d));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes128 value, float* target)
    {
        value._a.Store(target);
        value._b.Store(target + 4);
        value._c.Store(target + 8);
        value._d.Store(target + 12);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Add(Lanes128 a, Lanes128 b) => new(a._a + b._a, a._b + b._b, a._c + b._c, a._d + b._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Subtract(Lanes128 a, Lanes128 b) => new(a._a - b._a, a._b - b._b, a._c - b._c, a._d - b._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Multiply(Lanes128 a, Lanes128 b) => new(a._a * b._a, a._b * b._b, a._c * b._c, a._d * b._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Divide(Lanes128 a, Lanes128 b) => new(a._a / b._a, a._b / b._b, a._c / b._c, a._d / b._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 MultiplyAdd(Lanes128 a, Lanes128 b, Lanes128 c) => new(
        Vector128.FusedMultiplyAdd(a._a, b._a, c._a),
        Vector128.FusedMultiplyAdd(a._b, b._b, c._b),
        Vector128.FusedMultiplyAdd(a._c, b._c, c._c),
        Vector128.FusedMultiplyAdd(a._d, b._d, c._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 SelectLess(Lanes128 a, Lanes128 b, Lanes128 yes, Lanes128 no) => new(
        Vector128.ConditionalSelect(Vector128.LessThan(a._a, b._a), yes._a, no._a),
        Vector128.ConditionalSelect(Vector128.LessThan(a._b, b._b), yes._b, no._b),
        Vector128.ConditionalSelect(Vector128.LessThan(a._c, b._c), yes._c, no._c),
        Vector128.ConditionalSelect(Vector128.LessThan(a._d, b._d), yes._d, no._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Round(Lanes128 a) => new(Vector128.Round(a._a), Vector128.Round(a._b), Vector128.Round(a._c), Vector128.Round(a._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Scale(Lanes128 a, Lanes128 n) => new(Scale(a._a, n._a), Scale(a._b, n._b), Scale(a._c, n._c), Scale(a._d, n._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Lanes128 a) => (a._a + a._c) + (a._b + a._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Scale(Vector128<float> a, Vector128<float> n)
    {
        var whole = Vector128.ConvertToInt32Native(n);
        var half = whole >> 1;
        return a * Power(half) * Power(whole - half);
    }

    private static Vector128<float> Power(Vector128<int> n) => ((n + Vector128.Create(127)) << 23).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 LoadBytes(byte* source) => new(
        Vector128.Load(source).AsSingle(), Vector128.Load(source + 16).AsSingle(), Vector128.Load(source + 32).AsSingle(), Vector128.Load(source + 48).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 BroadcastBytes(sbyte* source)
    {
        var all = Vector128.Create(*(int*)source).AsSingle();
        return new(all, all, all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 LowNibbles(Lanes128 a) => new(LowNibbles(a._a), LowNibbles(a._b), LowNibbles(a._c), LowNibbles(a._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 HighNibbles(Lanes128 a) => new(HighNibbles(a._a), HighNibbles(a._b), HighNibbles(a._c), HighNibbles(a._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 MultiplyBytes(Lanes128 a, Lanes128 b) => new(MultiplyBytes(a._a, b._a), MultiplyBytes(a._b, b._b), MultiplyBytes(a._c, b._c), MultiplyBytes(a._d, b._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 AddInt16(Lanes128 a, Lanes128 b) => new((a._a.AsInt16() + b._a.AsInt16()).AsSingle(), (a._b.AsInt16() + b._b.AsInt16()).AsSingle(), (a._c.AsInt16() + b._c.AsInt16()).AsSingle(), (a._d.AsInt16() + b._d.AsInt16()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 PairSums(Lanes128 a) => new(PairSums(a._a), PairSums(a._b), PairSums(a._c), PairSums(a._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 AddInt32(Lanes128 a, Lanes128 b) => new((a._a.AsInt32() + b._a.AsInt32()).AsSingle(), (a._b.AsInt32() + b._b.AsInt32()).AsSingle(), (a._c.AsInt32() + b._c.AsInt32()).AsSingle(), (a._d.AsInt32() + b._d.AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Pairs(sbyte* first, sbyte* second)
    {
        // An even byte of a widened pair is the low half of its lane.
        var ((a, b), (c, d)) = (Vector128.Widen(Vector128.Load(first)), Vector128.Widen(Vector128.Load(second)));
        return new(LowPairs(a, c), HighPairs(a, c), LowPairs(b, d), HighPairs(b, d));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> LowPairs(Vector128<short> a, Vector128<short> b) =>
        ((Vector128.WidenLower(a) & Vector128.Create(0xFFFF)) | (Vector128.WidenLower(b) << 16)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> HighPairs(Vector128<short> a, Vector128<short> b) =>
        ((Vector128.WidenUpper(a) & Vector128.Create(0xFFFF)) | (Vector128.WidenUpper(b) << 16)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 MultiplyPairs(Lanes128 a, Lanes128 b) => new(MultiplyPairs(a._a, b._a), MultiplyPairs(a._b, b._b), MultiplyPairs(a._c, b._c), MultiplyPairs(a._d, b._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> MultiplyPairs(Vector128<float> a, Vector128<float> b)
    {
        if (Sse2.IsSupported) return Sse2.MultiplyAddAdjacent(a.AsInt16(), b.AsInt16()).AsSingle();
        Vector128<int> x = a.AsInt32(), y = b.AsInt32();
        return ((((x << 16) >> 16) * ((y << 16) >> 16)) + ((x >> 16) * (y >> 16))).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreInt16(Lanes128 value, short* target)
    {
        Vector128.Narrow(Vector128.ConvertToInt32(value._a), Vector128.ConvertToInt32(value._b)).Store(target);
        Vector128.Narrow(Vector128.ConvertToInt32(value._c), Vector128.ConvertToInt32(value._d)).Store(target + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Times16(Lanes128 a) => new((a._a.AsInt32() << 4).AsSingle(), (a._b.AsInt32() << 4).AsSingle(), (a._c.AsInt32() << 4).AsSingle(), (a._d.AsInt32() << 4).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 ToSingle(Lanes128 a) => new(Vector128.ConvertToSingle(a._a.AsInt32()), Vector128.ConvertToSingle(a._b.AsInt32()), Vector128.ConvertToSingle(a._c.AsInt32()), Vector128.ConvertToSingle(a._d.AsInt32()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 LoadHalf(ushort* source) => new(Half(source), Half(source + 4), Half(source + 8), Half(source + 12));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 WidenBytes(byte* source)
    {
        var (low, high) = Vector128.Widen(Vector128.Load(source));
        var ((a, b), (c, d)) = (Vector128.Widen(low), Vector128.Widen(high));
        return new(a.AsSingle(), b.AsSingle(), c.AsSingle(), d.AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 BroadcastInt16(short value)
    {
        var all = Vector128.Create(value).AsSingle();
        return new(all, all, all, all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Wint2Values(byte* line, Lanes128 scale, Lanes128 zeroPoint)
    {
        var (low, high) = Vector128.Widen(Vector128.Load(line));
        var (a, b) = Wint2Values(low.AsInt16() * scale._a.AsInt16() + zeroPoint._a.AsInt16());
        var (c, d) = Wint2Values(high.AsInt16() * scale._a.AsInt16() + zeroPoint._a.AsInt16());
        return new(a, b, c, d);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 FloorToInt32(Lanes128 a) => new(Vector128.ConvertToInt32Native(Vector128.Floor(a._a)).AsSingle(), Vector128.ConvertToInt32Native(Vector128.Floor(a._b)).AsSingle(), Vector128.ConvertToInt32Native(Vector128.Floor(a._c)).AsSingle(), Vector128.ConvertToInt32Native(Vector128.Floor(a._d)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 SpreadWord(Lanes128 word) => new(SpreadWord(word._a.AsInt32()), SpreadWord(word._b.AsInt32()), SpreadWord(word._c.AsInt32()), SpreadWord(word._d.AsInt32()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Nibble(Lanes128 a, bool high) => new(Nibble(a._a.AsInt32(), high), Nibble(a._b.AsInt32(), high), Nibble(a._c.AsInt32(), high), Nibble(a._d.AsInt32(), high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> LowNibbles(Vector128<float> a) => (a.AsByte() & Vector128.Create((byte)15)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> HighNibbles(Vector128<float> a) => ((a.AsUInt16() >>> 4).AsByte() & Vector128.Create((byte)15)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> MultiplyBytes(Vector128<float> a, Vector128<float> b)
    {
        if (Ssse3.IsSupported) return Ssse3.MultiplyAddAdjacent(a.AsByte(), b.AsSByte()).AsSingle();
        // a is at most 127, so it may be read as signed.
        if (AdvSimd.Arm64.IsSupported)
        {
            var first = AdvSimd.MultiplyWideningLower(a.AsSByte().GetLower(), b.AsSByte().GetLower());
            return AdvSimd.Arm64.AddPairwise(first, AdvSimd.MultiplyWideningUpper(a.AsSByte(), b.AsSByte())).AsSingle();
        }
        return Vector128.Narrow(Neighbours(Vector128.WidenLower(a.AsSByte()) * Vector128.WidenLower(b.AsSByte())), Neighbours(Vector128.WidenUpper(a.AsSByte()) * Vector128.WidenUpper(b.AsSByte()))).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> PairSums(Vector128<float> a)
    {
        if (Sse2.IsSupported) return Sse2.MultiplyAddAdjacent(a.AsInt16(), Vector128<short>.One).AsSingle();
        if (AdvSimd.IsSupported) return AdvSimd.AddPairwiseWidening(a.AsInt16()).AsSingle();
        return Neighbours(a.AsInt16()).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Neighbours(Vector128<short> a) => (a.AsInt32() << 16 >> 16) + (a.AsInt32() >> 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Half(ushort* source)
    {
        // Exponent and mantissa move into a float's place; 2^112 corrects the bias, and makes subnormal halves normal.
        var wide = Vector128.WidenLower(Vector128.CreateScalar(*(long*)source).AsInt16());
        return ((wide << 13) & Vector128.Create(unchecked((int)0x8FFFFFFF))).AsSingle() * Vector128.Create(5.192296858534828e33f);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> SpreadWord(Vector128<int> w) =>
        (((w >> 9) & Vector128.Create(0x3F)) | ((w << 2) & Vector128.Create(0x3F00)) | ((w << 13) & Vector128.Create(0x3F0000)) | ((w << 24) & Vector128.Create(0x3F000000))).AsSingle();

    /// <summary>Eight words to rows 0-3 and 4-7 of four bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector128<float> Low, Vector128<float> High) Wint2Values(Vector128<short> word)
    {
        var first = ((word >>> 9) | ((word << 2) & Vector128.Create((short)0x3F00))).AsUInt16();
        var second = (((word >>> 3) & Vector128.Create((short)0x3F)) | ((word << 8) & Vector128.Create((short)0x3F00))).AsUInt16();
        var (firstLow, firstHigh) = Vector128.Widen(first);
        var (secondLow, secondHigh) = Vector128.Widen(second);
        return ((firstLow | (secondLow << 16)).AsSingle(), (firstHigh | (secondHigh << 16)).AsSingle());
    }

    private static Vector128<float> Nibble(Vector128<int> a, bool high) => ((high ? a >>> 4 : a) & Vector128.Create(15)).AsSingle();
}
