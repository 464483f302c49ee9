using System.Runtime.InteropServices;
using System.Text.Json;
using CsCheck;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Quantization;

public class ChannelIntTests
{
    [Theory]
    [InlineData("int8")]
    [InlineData("int4")]
    public void Quantiser_GivesTheGoldenIntegersScalesAndBytes(string type)
    {
        using var golden = Golden.Open(SharedData.Path("goldens", "layouts", "layouts.json"));
        foreach (var matrix in golden.RootElement.GetProperty("matrices").EnumerateArray())
        {
            var (inputs, outputs) = (matrix.GetProperty("K").GetInt32(), matrix.GetProperty("N").GetInt32());
            var weights = MemoryMarshal.Cast<byte, ushort>(matrix.GetProperty("weight_bf16").GetBytesFromBase64());
            var expected = matrix.GetProperty(type);
            var integers = MemoryMarshal.Cast<byte, sbyte>(expected.GetProperty("q").GetBytesFromBase64());
            var scales = MemoryMarshal.Cast<byte, ushort>(expected.GetProperty("scale_bf16").GetBytesFromBase64());
            var bytes = expected.GetProperty("gpu_order").GetBytesFromBase64();
            var (largest, perStripe) = type == "int8" ? (ChannelInt.Largest8, GpuByteOrder.Outputs8) : (ChannelInt.Largest4, GpuByteOrder.Outputs4);
            var packed = new byte[bytes.Length];
            var (column, q, unpacked, decoded) = (new float[inputs], new sbyte[inputs], new sbyte[inputs], new float[inputs]);
            for (var n = 0; n < outputs; n++)
            {
                for (var k = 0; k < inputs; k++) column[k] = BFloat16.ToSingle(weights[k * outputs + n]);
                Assert.Equal(scales[n], ChannelInt.Quantise(column, largest, q));
                for (var k = 0; k < inputs; k++) Assert.Equal(integers[k * outputs + n], q[k]);
                var stripe = n / perStripe * 2 * inputs;
                if (type == "int8")
                {
                    GpuByteOrder.Pack8(q, n % perStripe, packed.AsSpan(stripe, 2 * inputs));
                    GpuByteOrder.Unpack8(bytes.AsSpan(stripe, 2 * inputs), n % perStripe, unpacked);
                }
                else
                {
                    GpuByteOrder.Pack4(q, n % perStripe, packed.AsSpan(stripe, 2 * inputs));
                    GpuByteOrder.Unpack4(bytes.AsSpan(stripe, 2 * inputs), n % perStripe, unpacked);
                }
                Assert.Equal(q, unpacked);
                var scale = BFloat16.ToSingle(scales[n]);
                ChannelInt.Dequantise(q, scale, decoded);
                for (var k = 0; k < inputs; k++) Assert.Equal(q[k] * scale, decoded[k]);
            }
            Assert.Equal(bytes, packed);
        }
    }

    [Fact]
    public void Indexes_AreTheGoldenOnes()
    {
        using var golden = Golden.Open(SharedData.Path("goldens", "layouts", "layouts.json"));
        foreach (var shape in golden.RootElement.GetProperty("index").EnumerateArray())
        {
            var inputs = shape.GetProperty("K").GetInt32();
            foreach (var point in shape.GetProperty("points").EnumerateArray().Select(static p => p.Deserialize<long[]>()!))
            {
                Assert.Equal(point[2], GpuByteOrder.ByteIndex(point[0], point[1], inputs));
                Assert.Equal(point[3], GpuByteOrder.NibbleIndex(point[0], point[1], inputs));
            }
        }
    }

    [Fact]
    public void Orders_AreBijections()
    {
        Gen.Select(Gen.Int[1, 12], Gen.Int[1, 12]).Sample((k, n) =>
        {
            var (inputs, outputs) = (64 * k, 4 * n);
            var (bytes, nibbles) = (new bool[inputs * outputs], new bool[inputs * outputs]);
            for (var input = 0; input < inputs; input++)
            {
                for (var output = 0; output < outputs; output++)
                {
                    bytes[GpuByteOrder.ByteIndex(input, output, inputs)] = true;
                    nibbles[GpuByteOrder.NibbleIndex(input, output, inputs)] = true;
                }
            }
            Assert.DoesNotContain(false, bytes);
            Assert.DoesNotContain(false, nibbles);
        }, iter: 40, threads: 1);
    }

    [Fact]
    public void Unpack_FollowsTheClosedForm()
    {
        Gen.Select(Gen.Int[1, 9], Gen.Byte.Array[2 * 64 * 9]).Sample((k, random) =>
        {
            var inputs = 64 * k;
            var stripe = random.AsSpan(0, 2 * inputs);
            var channel = new sbyte[inputs];
            for (var member = 0; member < GpuByteOrder.Outputs8; member++)
            {
                GpuByteOrder.Unpack8(stripe, member, channel);
                for (var input = 0; input < inputs; input++) Assert.Equal(stripe[(int)GpuByteOrder.ByteIndex(input, member, inputs)] - 128, channel[input]);
            }
            for (var member = 0; member < GpuByteOrder.Outputs4; member++)
            {
                GpuByteOrder.Unpack4(stripe, member, channel);
                for (var input = 0; input < inputs; input++)
                {
                    var index = (int)GpuByteOrder.NibbleIndex(input, member, inputs);
                    Assert.Equal(((stripe[index / 2] >> (index % 2 * 4)) & 15) - 8, channel[input]);
                }
            }
        }, iter: 40, threads: 1);
    }

    [Fact]
    public void Rounding_IsHalfAwayFromZeroWithoutAddingAHalf()
    {
        var q = new sbyte[6];
        // Divided by 7 and multiplied by 7 these stay what they are.
        Assert.Equal(0x3F80, ChannelInt.Quantise([7, 0.5f, -0.5f, 0.49999997f, 2.5f, -6.5f], ChannelInt.Largest4, q));
        Assert.Equal([7, 1, -1, 0, 3, -7], q);
        Assert.Equal(0, ChannelInt.Quantise([0, -0f, 0], ChannelInt.Largest8, q));
        Assert.Equal([0, 0, 0], q[..3]);
    }

    [Fact]
    public void Dequantise_TakesAnyLength()
    {
        sbyte[] q = [.. Enumerable.Range(-128, 256).Select(static v => (sbyte)v)];
        for (var length = 0; length <= q.Length; length += 37)
        {
            var values = new float[length];
            ChannelInt.Dequantise(q.AsSpan(0, length), 0.37f, values);
            Assert.Equal(q[..length].Select(static v => v * 0.37f), values);
        }
    }
}
