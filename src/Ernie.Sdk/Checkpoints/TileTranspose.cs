using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Ernie.Sdk.Checkpoints;

/// <summary>Writes a tile [columns, stride], of which <c>rows</c> are used, as [rows, columns] into a matrix of targetStride columns.</summary>
internal static unsafe class TileTranspose
{
    public static void Write(float* tile, int stride, int rows, int columns, float* target, long targetStride)
    {
        var r = 0;
        if (Avx.IsSupported)
        {
            for (; r <= rows - 8; r += 8)
            {
                var c = 0;
                for (; c <= columns - 8; c += 8) Write8x8(tile + c * stride + r, stride, target + r * targetStride + c, targetStride);
                for (; c < columns; c++)
                {
                    for (var i = r; i < r + 8; i++) target[i * targetStride + c] = tile[c * stride + i];
                }
            }
        }
        for (; r < rows; r++)
        {
            for (var c = 0; c < columns; c++) target[r * targetStride + c] = tile[c * stride + r];
        }
    }

    // Rows a..h of 8 floats. Unpack pairs rows two by two, Shuffle pairs the pairs inside each 128-bit half, Permute2x128 joins the halves:
    //   unpack low a,b   a0 b0 a1 b1 | a4 b4 a5 b5
    //   shuffle ab,cd    a0 b0 c0 d0 | a4 b4 c4 d4
    //   permute          a0 b0 c0 d0 e0 f0 g0 h0        = column 0
    private static void Write8x8(float* source, int stride, float* target, long targetStride)
    {
        var a = Vector256.Load(source);
        var b = Vector256.Load(source + stride);
        var c = Vector256.Load(source + 2 * stride);
        var d = Vector256.Load(source + 3 * stride);
        var e = Vector256.Load(source + 4 * stride);
        var f = Vector256.Load(source + 5 * stride);
        var g = Vector256.Load(source + 6 * stride);
        var h = Vector256.Load(source + 7 * stride);

        var abLow = Avx.UnpackLow(a, b);
        var abHigh = Avx.UnpackHigh(a, b);
        var cdLow = Avx.UnpackLow(c, d);
        var cdHigh = Avx.UnpackHigh(c, d);
        var efLow = Avx.UnpackLow(e, f);
        var efHigh = Avx.UnpackHigh(e, f);
        var ghLow = Avx.UnpackLow(g, h);
        var ghHigh = Avx.UnpackHigh(g, h);

        var abcd0 = Avx.Shuffle(abLow, cdLow, 0b01_00_01_00);
        var abcd1 = Avx.Shuffle(abLow, cdLow, 0b11_10_11_10);
        var abcd2 = Avx.Shuffle(abHigh, cdHigh, 0b01_00_01_00);
        var abcd3 = Avx.Shuffle(abHigh, cdHigh, 0b11_10_11_10);
        var efgh0 = Avx.Shuffle(efLow, ghLow, 0b01_00_01_00);
        var efgh1 = Avx.Shuffle(efLow, ghLow, 0b11_10_11_10);
        var efgh2 = Avx.Shuffle(efHigh, ghHigh, 0b01_00_01_00);
        var efgh3 = Avx.Shuffle(efHigh, ghHigh, 0b11_10_11_10);

        Avx.Permute2x128(abcd0, efgh0, 0x20).Store(target);
        Avx.Permute2x128(abcd1, efgh1, 0x20).Store(target + targetStride);
        Avx.Permute2x128(abcd2, efgh2, 0x20).Store(target + 2 * targetStride);
        Avx.Permute2x128(abcd3, efgh3, 0x20).Store(target + 3 * targetStride);
        Avx.Permute2x128(abcd0, efgh0, 0x31).Store(target + 4 * targetStride);
        Avx.Permute2x128(abcd1, efgh1, 0x31).Store(target + 5 * targetStride);
        Avx.Permute2x128(abcd2, efgh2, 0x31).Store(target + 6 * targetStride);
        Avx.Permute2x128(abcd3, efgh3, 0x31).Store(target + 7 * targetStride);
    }
}
