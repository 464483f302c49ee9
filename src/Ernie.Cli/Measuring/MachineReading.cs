using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>What the machine can do, in operations or bytes per second.</summary>
internal sealed record MachineReading(double ReadOneThread, double ReadAllThreads, double Float, double? Int8)
{
    /// <summary>Medians of several readings of everything.</summary>
    public static MachineReading Take(ReadBandwidthProbe bandwidth, IParallelRunner runner, int count = 5)
    {
        var arithmetic = new ArithmeticProbe(runner);
        // The first passes are compiled for.
        _ = (bandwidth.Measure(), arithmetic.MeasureFloat(), arithmetic.MeasureInt8());
        var readings = Enumerable.Range(0, count).Select(_ => (One: bandwidth.MeasureOneThread(), All: bandwidth.Measure(), Float: arithmetic.MeasureFloat(), Int8: arithmetic.MeasureInt8())).ToArray();
        return new MachineReading(Median.Of(readings.Select(static r => r.One)), Median.Of(readings.Select(static r => r.All)), Median.Of(readings.Select(static r => r.Float)),
            readings[0].Int8 is null ? null : Median.Of(readings.Select(static r => r.Int8!.Value)));
    }
}
