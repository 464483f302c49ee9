using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>Which format each matrix of an export gets.</summary>
internal static class ExportFormats
{
    /// <exception cref="ArgumentOutOfRangeException">The options name no format.</exception>
    /// <exception cref="NotSupportedException">This architecture cannot be stored so.</exception>
    public static ModelFormats Of(IWeightSource source, ErnieExportOptions options)
    {
        var experts = FormatOf(options.Experts, options.GroupSize, nameof(options.Experts));
        var dense = FormatOf(options.Dense, options.GroupSize, nameof(options.Dense));
        var keepsStored = (experts is null || dense is null) && IsQuantised(source);
        // What a quantised checkpoint holds in other formats was left alone on purpose.
        var otherwise = experts is not null && dense is not null || keepsStored ? WeightFormat.BFloat16 : FormatOf(ErniePrecision.Int4, options.GroupSize, nameof(options.GroupSize))!.Value;
        var formats = ModelFormats.Of(experts ?? otherwise, dense ?? otherwise);
        if (options.Int4Layers.Count > 0) formats = WithInt4Layers(source.Config, formats, options);
        if (keepsStored) formats = AsStored(source, formats, keepsExperts: experts is null, keepsDense: dense is null);
        return formats.Problem(source.Config) is { } problem ? throw new NotSupportedException($"The model cannot be exported like this: {problem}.") : formats;
    }

    private static ModelFormats WithInt4Layers(ErnieConfig config, ModelFormats formats, ErnieExportOptions options)
    {
        if (formats.Experts.Kind != WeightKind.Int2) throw new NotSupportedException("Single layers can only be int4 where the routed experts are int2. Export with int2 experts, or without a list of int4 layers.");
        foreach (var layer in options.Int4Layers)
        {
            if (!config.IsMoeLayer(layer)) throw new NotSupportedException($"Layer {layer} has no routed experts that could be int4; layers {string.Join(", ", Enumerable.Range(0, config.LayerCount).Where(config.IsMoeLayer))} have.");
        }
        var int4 = FormatOf(ErniePrecision.Int4, options.GroupSize, nameof(options.Int4Layers))!.Value;
        return formats with { Exceptions = options.Int4Layers.Distinct().Order().SelectMany(static layer => new[] { ErnieGraph.ExpertDown(layer), ErnieGraph.ExpertGateUp(layer) }).ToDictionary(static name => name, _ => int4) };
    }

    private static WeightFormat? FormatOf(ErniePrecision? precision, int groupSize, string option)
    {
        WeightFormat? format = precision switch
        {
            null => null,
            ErniePrecision.BFloat16 => WeightFormat.BFloat16,
            ErniePrecision.Float32 => WeightFormat.Float32,
            ErniePrecision.Int8 => WeightFormat.Int8(groupSize),
            ErniePrecision.Int4 => WeightFormat.Int4(groupSize),
            ErniePrecision.Int2 => WeightFormat.Int2,
            _ => throw new ArgumentOutOfRangeException(nameof(precision), precision, $"ErnieExportOptions.{option}: use a value of ErniePrecision, or null."),
        };
        return format is { IsValid: false } ? throw new ArgumentOutOfRangeException(nameof(groupSize), groupSize, "ErnieExportOptions.GroupSize: use 32, 64, 128 or ErnieExportOptions.PerChannel.") : format;
    }

    /// <summary>Whether any matrix is stored in a packed format.</summary>
    private static bool IsQuantised(IWeightSource source) =>
        ErnieGraph.Build(source.Config, ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.BFloat16)).Weights.SelectMany(static weight => weight.Sources).Any(name => source.Tensor(name).StoredFormat is not null);

    /// <summary>Gives matrices of a quantised checkpoint the format that they are stored in. The most common one names the whole, the others are exceptions.</summary>
    private static ModelFormats AsStored(IWeightSource source, ModelFormats formats, bool keepsExperts, bool keepsDense)
    {
        var stored = new Dictionary<string, WeightFormat>(StringComparer.Ordinal);
        foreach (var weight in ErnieGraph.Build(source.Config, formats).Weights)
        {
            if (weight.Format.Kind != WeightKind.BFloat16 || weight.Name == TensorNames.Embedding || !(ErnieGraph.IsExperts(weight.Name) ? keepsExperts : keepsDense)) continue;
            var found = weight.Sources.Select(name => source.Tensor(name).StoredFormat).Distinct().ToList();
            stored.Add(weight.Name, found is [{ } only] ? only : weight.Format);
        }
        stored.Remove(TensorNames.Head, out var head);
        var (experts, dense) = (MostCommon(ErnieGraph.IsExperts) ?? formats.Experts, MostCommon(static name => !ErnieGraph.IsExperts(name)) ?? formats.Dense);
        var exceptions = stored.Where(pair => pair.Value != (ErnieGraph.IsExperts(pair.Key) ? experts : dense)).OrderBy(static pair => pair.Key, StringComparer.Ordinal);
        return formats with { Experts = experts, Dense = dense, Head = head.IsPacked ? head : formats.Head, Exceptions = new Dictionary<string, WeightFormat>(exceptions.Concat(formats.Exceptions.Where(pair => !stored.ContainsKey(pair.Key)))) };

        WeightFormat? MostCommon(Func<string, bool> isPart) =>
            stored.Where(pair => isPart(pair.Key)).CountBy(static pair => pair.Value).OrderByDescending(static count => count.Value).Select(static count => (WeightFormat?)count.Key).FirstOrDefault();
    }
}
