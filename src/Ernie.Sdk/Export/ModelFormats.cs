using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>Format of every matrix of a model. Norms, routers and correction biases are float32 always.</summary>
internal sealed record ModelFormats
{
    /// <summary>Routed experts.</summary>
    public required WeightFormat Experts { get; init; }
    /// <summary>Attention, dense and shared feed-forward layers.</summary>
    public required WeightFormat Dense { get; init; }
    /// <summary>Row-major: rows are gathered by token.</summary>
    public required WeightFormat Embedding { get; init; }
    /// <summary>A tied head of the embedding's format is the embedding; of another, it is stored beside it.</summary>
    public required WeightFormat Head { get; init; }
    /// <summary>Matrices of <see cref="Experts"/> or <see cref="Dense"/> that are stored otherwise, by the names of the graph's weights.</summary>
    public IReadOnlyDictionary<string, WeightFormat> Exceptions { get; init; } = new Dictionary<string, WeightFormat>();

    public static ModelFormats Of(WeightFormat experts, WeightFormat dense) =>
        new() { Experts = experts, Dense = dense, Embedding = dense.IsPacked ? WeightFormat.BFloat16 : dense, Head = dense };

    /// <summary>Format of a routed expert stack (<see cref="ErnieGraph.ExpertGateUp"/>, <see cref="ErnieGraph.ExpertDown"/>).</summary>
    public WeightFormat OfExperts(string weight) => Exceptions.TryGetValue(weight, out var format) ? format : Experts;

    /// <summary>Format of another matrix, embedding and head apart.</summary>
    public WeightFormat OfDense(string weight) => Exceptions.TryGetValue(weight, out var format) ? format : Dense;

    /// <summary>As <see cref="OfExperts(string)"/>, of a layer's weight.</summary>
    public WeightFormat OfExperts(Func<int, string> weight, int layer) => Exceptions.Count == 0 ? Experts : OfExperts(weight(layer));

    /// <summary>As <see cref="OfDense(string)"/>, of a layer's weight.</summary>
    public WeightFormat OfDense(Func<int, string> weight, int layer) => Exceptions.Count == 0 ? Dense : OfDense(weight(layer));

    /// <summary>As in <c>experts int2 (52 of 54 matrices), int4/channel (2), dense int8/channel, embedding bf16, head bf16</c>.</summary>
    public string Describe(ErnieConfig config)
    {
        var layers = Enumerable.Range(0, config.LayerCount).ToLookup(config.IsMoeLayer);
        var experts = Used("experts ", layers[true].SelectMany(static layer => new[] { ErnieGraph.ExpertGateUp(layer), ErnieGraph.ExpertDown(layer) }).Select(OfExperts));
        IEnumerable<string> dense =
        [
            .. Enumerable.Range(0, config.LayerCount).SelectMany(static layer => new[] { ErnieGraph.QueryKeyValue(layer), ErnieGraph.AttentionOutput(layer) }),
            .. layers[false].SelectMany(static layer => new[] { ErnieGraph.DenseGateUp(layer), ErnieGraph.DenseDown(layer) }),
            .. layers[true].SelectMany(static layer => new[] { ErnieGraph.SharedGateUp(layer), ErnieGraph.SharedDown(layer) }),
        ];
        return $"{experts}{Used("dense ", dense.Select(OfDense))}embedding {Embedding}, head {Head}";

        static string Used(string what, IEnumerable<WeightFormat> formats)
        {
            var counts = formats.CountBy(static format => format).OrderByDescending(static pair => pair.Value).ToList();
            return counts.Count switch
            {
                0 => "",
                1 => $"{what}{counts[0].Key}, ",
                _ => $"{what}{string.Join(" and ", counts.Select(static pair => string.Create(CultureInfo.InvariantCulture, $"{pair.Key} ({pair.Value} matrices)")))}, ",
            };
        }
    }

    /// <summary>Whether one matrix serves as embedding and head.</summary>
    public bool SharesEmbedding(ErnieConfig config) => config.TieWordEmbeddings && Head == Embedding;

    /// <summary>What a model of this architecture cannot be stored as, in a sentence without a full stop; null if nothing speaks against it.</summary>
    public string? Problem(ErnieConfig config)
    {
        if (!Experts.IsValid || !Dense.IsValid || !Embedding.IsValid || !Head.IsValid || Exceptions.Values.Any(static format => !format.IsValid)) return "a weight format does not exist";
        if (Embedding.IsPacked) return $"the embedding cannot be {Embedding}: its rows are gathered one by one";
        if (Dense.Kind == WeightKind.Int2 || Head.Kind == WeightKind.Int2) return ExpertsOnly;
        if (Exceptions.Count == 0)
        {
            // Without building a graph, which takes its time in a model of many experts.
            var isInt2 = Experts.Kind == WeightKind.Int2 && config.MoeLayerCount > 0;
            return isInt2 ? Int2Problem("gate_up_proj", config.HiddenSize) ?? Int2Problem("down_proj", config.ExpertIntermediateSize) : null;
        }
        var weights = ErnieGraph.Build(config, this).Weights.ToDictionary(static weight => weight.Name, StringComparer.Ordinal);
        foreach (var (name, format) in Exceptions)
        {
            if (!weights.TryGetValue(name, out var weight) || weight.Format != format) return $"no matrix {name} can be {format}";
        }
        var packed = weights.Values.Where(static weight => weight.Format.Kind == WeightKind.Int2).ToList();
        return packed.All(static weight => ErnieGraph.IsExperts(weight.Name)) ? packed.Select(static weight => Int2Problem(weight.Name, weight.Columns)).FirstOrDefault(static problem => problem is not null) : ExpertsOnly;
    }

    private const string ExpertsOnly = "int2 is for routed experts only";

    private static string? Int2Problem(string weight, long columns) =>
        columns % Wint2.InputsPerScaleByte == 0 ? null : $"{weight} of the routed experts has {columns} inputs, int2 takes multiples of {Wint2.InputsPerScaleByte}";
}
