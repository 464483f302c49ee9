using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Second moments as the exporter hands them over.</summary>
internal static unsafe class Moments
{
    public static ScratchBuffer Of(double[] values)
    {
        var buffer = new ScratchBuffer();
        var floats = (float*)buffer.Rent(values.Length * sizeof(float));
        for (var i = 0; i < values.Length; i++) floats[i] = (float)values[i];
        return buffer;
    }
}
