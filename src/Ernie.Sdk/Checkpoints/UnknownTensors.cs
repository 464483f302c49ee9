namespace Ernie.Sdk.Checkpoints;

/// <summary>Tensors that no known weight accounts for: inside a decoder layer they mean a computation that is not implemented, elsewhere they are noted.</summary>
internal static class UnknownTensors
{
    private static readonly string[] QuantisedSuffixes =
        [".quant_weight", ".weight_scale", ".weight_scales", ".weight_scale_inv", ".super_scales", ".code_scale", ".code_zp", ".activation_scale", ".activation_zero_point", ".weight_packed", ".qweight", ".qzeros", ".scales", ".absmax", ".quant_map"];

    public static void ThrowIfQuantised(StoredTensors stored)
    {
        var quantised = new ProblemList("The checkpoint is quantised, and config.json has no quantization_config that says how", UnsupportedFeatures.FormatsRead);
        foreach (var (stem, tensor) in stored.Stems)
        {
            if (IsQuantised(stem)) quantised.Add(tensor.ToString());
        }
        quantised.ThrowUnsupportedIfAny();
    }

    public static void Judge(StoredTensors stored, ICollection<string> notes)
    {
        var unsupported = new ProblemList("The checkpoint holds tensors of a feature that is not implemented", "Read are the text models of ERNIE 4.5 without biases, query and key norms, vision or quantised activations.");
        var others = new List<string>();
        foreach (var (stem, tensor) in stored.Unclaimed)
        {
            if (MeansUnknownFeature(stem)) unsupported.Add(tensor.ToString());
            else others.Add(tensor.Name);
        }
        unsupported.ThrowUnsupportedIfAny();
        if (others.Count > 0) notes.Add($"{others.Count} tensors without a known use are left out: {string.Join(", ", others.Take(5))}{(others.Count > 5 ? ", …" : "")}.");
    }

    private static bool IsQuantised(string stem) => QuantisedSuffixes.Any(suffix => stem.EndsWith(suffix, StringComparison.Ordinal));

    private static bool MeansUnknownFeature(string stem) =>
        stem.StartsWith("layers.", StringComparison.Ordinal)
        || IsQuantised(stem)
        || stem.EndsWith(".bias", StringComparison.Ordinal)
        || stem.Contains("vision", StringComparison.Ordinal) || stem.Contains("resampler", StringComparison.Ordinal);
}
