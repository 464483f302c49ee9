using Microsoft.Extensions.Logging;

namespace Ernie.Sdk;

/// <summary>How <see cref="ErnieExporter"/> writes a model. By default all large matrices become <see cref="ErniePrecision.Int4"/> in groups of 128, fitted to a calibration text; a quantised checkpoint keeps what it holds.</summary>
public sealed class ErnieExportOptions
{
    /// <summary>A <see cref="GroupSize"/>: one scale for a whole row, an output channel, as in FastDeploy's <c>wint8</c> and <c>wint4</c>.</summary>
    public const int PerChannel = 0;

    /// <summary>Gets or sets the precision of the routed experts.</summary>
    /// <value>The default, <see langword="null"/>, keeps what a quantised checkpoint holds, layer by layer and bit for bit; others become <see cref="ErniePrecision.Int4"/>. <see cref="ErniePrecision.BFloat16"/> is what the released checkpoints hold.</value>
    public ErniePrecision? Experts { get; set; }

    /// <summary>
    /// Gets or sets the precision of every other matrix: attention, dense and shared feed-forward layers, and head. Norms and routers are always float32; the embedding, of which a token reads one row,
    /// is bfloat16 where this is an integer precision, and a head that shares its weights is then stored beside it.
    /// </summary>
    /// <value>The default, <see langword="null"/>, keeps what a quantised checkpoint holds, bit for bit; others become <see cref="ErniePrecision.Int4"/>.</value>
    public ErniePrecision? Dense { get; set; }

    /// <summary>Gets or sets how many neighbouring inputs share a scale in <see cref="ErniePrecision.Int8"/> and <see cref="ErniePrecision.Int4"/>: 32, 64, 128 or <see cref="PerChannel"/>.</summary>
    /// <value>The default is 128.</value>
    public int GroupSize { get; set; } = 128;

    /// <summary>Gets or sets the layers whose routed experts are <see cref="ErniePrecision.Int4"/> although <see cref="Experts"/> is <see cref="ErniePrecision.Int2"/>.</summary>
    /// <value>The default is none. The published 2-bit checkpoint of ERNIE 4.5 300B keeps its first four mixture-of-experts layers in 4 bits.</value>
    public IReadOnlyList<int> Int4Layers { get; set; } = [];

    /// <summary>Gets or sets whether integer precisions are chosen by what the weights are multiplied with, which a calibration text shows, and the export measures what they cost (<c>quality.json</c>).</summary>
    /// <value>The default is <see langword="true"/>; a checkpoint without tokenizer and <see cref="CalibrationFile"/> is exported as if it were not, with a warning to <see cref="Logger"/>. Without calibration weights are rounded as if all inputs were alike, which is fast; <see cref="ErniePrecision.Int2"/> is refused then.</value>
    public bool Calibrate { get; set; } = true;

    /// <summary>Gets or sets the file to calibrate with: text that resembles what the model is used for, with lines of <c>---</c> between its parts, or JSON lines <c>{"ids": […]}</c>. A few thousand tokens of it are used.</summary>
    /// <value>The default, <see langword="null"/>, takes a small text in several languages that comes with the library; it needs the checkpoint's tokenizer.</value>
    public string? CalibrationFile { get; set; }

    /// <summary>Gets or sets the name the model reports, for example in <c>ChatResponse.ModelId</c>.</summary>
    /// <value>The default, <see langword="null"/>, takes the name of the checkpoint's folder.</value>
    public string? ModelName { get; set; }

    /// <summary>Gets or sets where notes about the checkpoint go, such as defaults taken for keys that its configuration lacks.</summary>
    public ILogger? Logger { get; set; }

    /// <summary>Adds hidden states and router choices to the graph's outputs, for comparison with other engines.</summary>
    internal bool DebugOutputs { get; set; }

    /// <summary>A copy that the caller cannot change any more.</summary>
    internal ErnieExportOptions Snapshot()
    {
        var copy = (ErnieExportOptions)MemberwiseClone();
        copy.Int4Layers = [.. Int4Layers ?? []];
        return copy;
    }
}
