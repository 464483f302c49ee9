using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored in WINT8 or WINT4, in the byte order of FastDeploy's GPU kernels: outputs of a stored matrix, which may hold further ones (fused projections) beside them.</summary>
internal sealed class ChannelTensor : CheckpointTensor
{
    /// <summary><see cref="FastDeployFormat.Wint8"/> or <see cref="FastDeployFormat.Wint4"/>.</summary>
    public required FastDeployFormat Format { get; init; }
    /// <summary>Integers of N stored outputs: int8 [N, K], or [N/2, K] for WINT4.</summary>
    public required StoredTensor Integers { get; init; }
    /// <summary>[N]</summary>
    public required StoredTensor Scales { get; init; }
    /// <summary>Stored output that is this weight's row 0.</summary>
    public required long FirstOutput { get; init; }

    public override unsafe void Read(long firstRow, Span<float> destination)
    {
        var rows = CheckRange(firstRow, destination);
        if (rows == 0) return;
        var columns = checked((int)Columns);
        var stripeBytes = checked(2 * columns);
        var perStripe = Format == FastDeployFormat.Wint8 ? GpuByteOrder.Outputs8 : GpuByteOrder.Outputs4;
        var scales = new float[rows];
        Scales.Read(FirstOutput + firstRow, scales);
        var integers = new sbyte[columns];
        using var mapped = Integers.Source!.Map(Integers.Entry);
        if (((FirstOutput + firstRow + rows - 1) / perStripe + 1) * stripeBytes > mapped.Length) throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        for (var r = 0; r < scales.Length; r++)
        {
            var output = FirstOutput + firstRow + r;
            var stripe = new ReadOnlySpan<byte>(mapped.Pointer + output / perStripe * stripeBytes, stripeBytes);
            var member = (int)(output % perStripe);
            if (Format == FastDeployFormat.Wint8) GpuByteOrder.Unpack8(stripe, member, integers);
            else GpuByteOrder.Unpack4(stripe, member, integers);
            ChannelInt.Dequantise(integers, scales[r], destination.Slice(r * columns, columns));
        }
    }
}
