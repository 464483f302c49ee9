using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Support;

internal static unsafe class RandomTensor
{
    /// <summary>Uniform in [-scale / 2, scale / 2).</summary>
    public static float[] Floats(Random random, int count, double scale)
    {
        var values = new float[count];
        for (var i = 0; i < count; i++) values[i] = (float)((random.NextDouble() - 0.5) * scale);
        return values;
    }

    /// <summary>Packed weights, uniform in [-scale / 2, scale / 2).</summary>
    public static NativeArray<byte> Weight(Random random, nint count, WeightFormat format, double scale)
    {
        var bytes = new NativeArray<byte>((nint)format.RowBytes(count));
        for (nint i = 0; i < count; i++)
        {
            var value = (float)((random.NextDouble() - 0.5) * scale);
            if (format == WeightFormat.Float32) ((float*)bytes.Pointer)[i] = value;
            else ((ushort*)bytes.Pointer)[i] = BFloat16.FromSingle(value);
        }
        return bytes;
    }
}
