using Microsoft.Extensions.Logging;

namespace Ernie.Sdk;

/// <summary>How <see cref="ErnieExporter"/> writes a model.</summary>
public sealed class ErnieExportOptions
{
    /// <summary>Gets or sets the precision of the routed experts.</summary>
    /// <value>The default is <see cref="ErniePrecision.BFloat16"/>.</value>
    public ErniePrecision Experts { get; set; } = ErniePrecision.BFloat16;

    /// <summary>Gets or sets the precision of every other matrix: attention, dense and shared feed-forward layers, embedding and head. Norms and routers are always float32.</summary>
    /// <value>The default is <see cref="ErniePrecision.BFloat16"/>.</value>
    public ErniePrecision Dense { get; set; } = ErniePrecision.BFloat16;

    /// <summary>Gets or sets the name the model reports, for example in <c>ChatResponse.ModelId</c>.</summary>
    /// <value>The default, <see langword="null"/>, takes the name of the checkpoint's folder.</value>
    public string? ModelName { get; set; }

    /// <summary>Gets or sets where notes about the checkpoint go, such as defaults taken for keys that its configuration lacks.</summary>
    public ILogger? Logger { get; set; }

    /// <summary>Adds hidden states and router choices to the graph's outputs, for comparison with other engines.</summary>
    internal bool DebugOutputs { get; set; }

    /// <summary>A copy that the caller cannot change any more.</summary>
    internal ErnieExportOptions Snapshot() => (ErnieExportOptions)MemberwiseClone();
}
