using Ernie.Sdk.Export;

namespace Ernie.Sdk.Engine;

/// <summary>Whether a model's experts are read ahead of their use, and whether that is measured.</summary>
/// <param name="Ahead">Pages of chosen and predicted experts are asked for.</param>
/// <param name="Measures">Predictions are compared with choices, and pages are looked at, even where nothing is read ahead.</param>
/// <param name="MaxBytes">Most bytes to ask for at once.</param>
internal readonly record struct ExpertReading(bool Ahead, bool Measures, long MaxBytes)
{
    public bool IsOn => Ahead || Measures;

    public static ExpertReading For(ModelManifest manifest, ErnieModelOptions options)
    {
        // Of a container, its limit.
        var memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        var ahead = options.ExpertPrefetch switch
        {
            ErnieExpertPrefetch.On => true,
            ErnieExpertPrefetch.Off => false,
            _ => manifest.WeightBytes > memory,
        };
        return new ExpertReading(ahead, options.MeasureExperts, memory / 8);
    }
}
