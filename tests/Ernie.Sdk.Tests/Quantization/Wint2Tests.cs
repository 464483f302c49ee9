using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Quantization;

public class Wint2Tests
{
    [Fact]
    public void Bytes_GiveTheGoldenWordsAndValues()
    {
        using var golden = Golden.Open(SharedData.Path("goldens", "wint2", "wint2.json"));
        foreach (var vector in golden.RootElement.GetProperty("vectors").EnumerateArray())
        {
            var word = Wint2.Word(vector.GetProperty("byte").GetByte(), vector.GetProperty("code_scale").GetSingle(), vector.GetProperty("code_zp").GetSingle());
            Assert.Equal(vector.GetProperty("word").GetInt32(), word);
            Assert.Equal(Golden.Ints(vector.GetProperty("values")), Enumerable.Range(0, 4).Select(i => Wint2.Value(word, i)));
        }
    }

    [Fact]
    public void PublishedExample_IsDecoded()
    {
        Assert.Equal(25601, Wint2.Word(200, 128, 0.5f));
        Assert.Equal([18, -16, -32, -31], Enumerable.Range(0, 4).Select(static i => Wint2.Value(25601, i)));
        Assert.Equal((13, 5), (Wint2.GroupScale(0xD5, 63), Wint2.GroupScale(0xD5, 64)));
        Assert.Equal((13, 5), (Wint2.GroupScale(0xD5, 128), Wint2.GroupScale(0xD5, 255)));
    }

    [Fact]
    public void Matrices_AreDecodedToTheGoldenBits()
    {
        using var golden = Golden.Open(SharedData.Path("goldens", "wint2", "wint2.json"));
        using var folder = new TemporaryFolder();
        foreach (var matrix in golden.RootElement.GetProperty("matrices").EnumerateArray())
        {
            long inputs = matrix.GetProperty("K").GetInt64(), outputs = matrix.GetProperty("N").GetInt64();
            var path = folder.File($"{inputs}x{outputs}.safetensors");
            // A name of odd length leaves float32 values unaligned in the file.
            SafetensorsWriter.Write(path,
            [
                new("a", "U8", [inputs / 4, outputs], matrix.GetProperty("quant_weight").GetBytesFromBase64()), new("b", "U8", [inputs / 128, outputs], matrix.GetProperty("weight_scale").GetBytesFromBase64()),
                new("c", "BF16", [outputs], matrix.GetProperty("super_scales_bf16").GetBytesFromBase64()), new("d", "F32", [outputs], matrix.GetProperty("code_scale").GetBytesFromBase64()),
                new("eee", "F32", [outputs], matrix.GetProperty("code_zp").GetBytesFromBase64()),
            ]);
            using var file = SafetensorsFile.Open(path);
            var expected = Golden.Floats(matrix.GetProperty("decoded_f32"));
            // Whole, and rows that start and end anywhere, so that every width of a tile occurs.
            foreach (var (first, rows) in new[] { (0L, outputs), (3, 1), (5, 13), (outputs - 9, 9), (1, outputs - 1) })
            {
                var tensor = Tensor(file, inputs, outputs, first);
                var actual = new float[rows * inputs];
                tensor.Read(0, actual);
                for (long r = 0; r < rows; r++)
                {
                    for (long k = 0; k < inputs; k++)
                    {
                        var wanted = expected[k * outputs + first + r];
                        Assert.True(BitConverter.SingleToInt32Bits(wanted) == BitConverter.SingleToInt32Bits(actual[r * inputs + k]), $"{inputs}x{outputs}, output {first + r}, input {k}: {actual[r * inputs + k]:R}, expected {wanted:R}");
                    }
                }
            }
        }
    }

    [Fact]
    public void AllBytes_DecodeAsOneByOne()
    {
        // Codes whose words leave 15 bits, are negative, or lie on edges.
        (float Scale, float ZeroPoint)[] codes = [(121, 800), (1021.5f, 37.25f), (-300.75f, -3.5f), (0.5f, 0), (120.947f, 1652.19f), (1e9f, 0), (0, -0.5f)];
        byte[] bytes = [.. Enumerable.Range(0, 256).Select(static b => (byte)b)];
        foreach (var (scale, zeroPoint) in codes)
        {
            var (scales, zeroPoints, steps, target) = (Filled(scale), Filled(zeroPoint), Filled(0.0371f), new float[4 * 256]);
            Wint2.Decode(bytes, scales, zeroPoints, steps, target, 256);
            for (var b = 0; b < 256; b++)
            {
                for (var i = 0; i < 4; i++) Assert.Equal(0.0371f * Wint2.Value(Wint2.Word((byte)b, scale, zeroPoint), i), target[i * 256 + b]);
            }
        }

        static float[] Filled(float value) => [.. Enumerable.Repeat(value, 256)];
    }

    [Fact]
    public void ProductAndSum_AreRoundedApart()
    {
        // The zero point brings the rounded product exactly to an edge; a product rounded up lies below it.
        var differs = 0;
        for (var bits = 0x42F2_0001; bits < 0x42F2_0101; bits++)
        {
            const byte code = 251;
            var scale = BitConverter.Int32BitsToSingle(bits);
            var zeroPoint = 100.5f - (float)(code * scale);
            if ((int)MathF.Floor(MathF.FusedMultiplyAdd(code, scale, zeroPoint) + 0.5f) == 100) differs++;
            Assert.Equal(101, Wint2.Word(code, scale, zeroPoint));
            var target = new float[4 * 8];
            Wint2.Decode([.. Enumerable.Repeat(code, 8)], Filled(scale), Filled(zeroPoint), Filled(1), target, 8);
            for (var i = 0; i < 4; i++) Assert.Equal(Wint2.Value(101, i), target[8 * i + 7]);
        }
        Assert.InRange(differs, 50, 256);

        static float[] Filled(float value) => [.. Enumerable.Repeat(value, 8)];
    }

    private static Wint2Tensor Tensor(SafetensorsFile file, long inputs, long outputs, long firstOutput)
    {
        StoredTensor Stored(int index) => new(file, file.Name, file.Entries[index]);
        return new Wint2Tensor
        {
            Name = "w", File = file.Name, Rows = outputs - firstOutput, Columns = inputs, Type = StoredType.Float32,
            Codes = Stored(0), GroupScales = Stored(1), SuperScales = Stored(2), CodeScales = Stored(3), CodeZeroPoints = Stored(4), Stride = outputs, FirstOutput = firstOutput,
        };
    }
}
