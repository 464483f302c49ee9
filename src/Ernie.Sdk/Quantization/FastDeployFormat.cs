namespace Ernie.Sdk.Quantization;

/// <summary>Formats of weight matrices in checkpoints that FastDeploy quantised, by its names.</summary>
internal enum FastDeployFormat
{
    /// <summary>8 bits with one scale an output channel (<see cref="ChannelInt"/>), in <see cref="GpuByteOrder"/>.</summary>
    Wint8,
    /// <summary>4 bits with one scale an output channel (<see cref="ChannelInt"/>), in <see cref="GpuByteOrder"/>.</summary>
    Wint4,
    /// <summary>2 bits, convolutional code (<see cref="Quantization.Wint2"/>), in plain order.</summary>
    Wint2,
}
