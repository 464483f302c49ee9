namespace Ernie.Cli.Measuring;

/// <summary>Counts what the steps of a model read and compute.</summary>
internal interface ITrafficMeter : IDisposable
{
    /// <summary>Kernels that compute.</summary>
    string Name { get; }

    /// <summary>The steps since the last call, and how many experts of each layer all of them touched together, on average.</summary>
    (IReadOnlyList<StepTraffic> Steps, double TouchedExperts) Take();
}
