namespace Ernie.Sdk.Checkpoints;

/// <summary>A size that a tensor's shape settles, and the tensor, for messages.</summary>
internal readonly record struct SizeFact(int Value, string Tensor);

/// <summary>What tensor names and shapes say about the architecture, before <c>config.json</c> is consulted. Null where they say nothing.</summary>
internal sealed record CheckpointFacts
{
    public SizeFact? VocabSize { get; private init; }
    public SizeFact? HiddenSize { get; private init; }
    public SizeFact? LayerCount { get; private init; }
    public SizeFact? IntermediateSize { get; private init; }
    public SizeFact? QueryWidth { get; private init; }
    public SizeFact? KeyWidth { get; private init; }
    public SizeFact? QkvWidth { get; private init; }
    public SizeFact? ExpertCount { get; private init; }
    public SizeFact? ExpertIntermediateSize { get; private init; }
    /// <summary>Width of the shared experts' one MLP.</summary>
    public SizeFact? SharedWidth { get; private init; }
    public bool HasSharedExperts { get; private init; }
    public bool HasEmbedding { get; private init; }
    public bool HasHead { get; private init; }
    public bool HasCorrectionBias { get; private init; }
    /// <summary>Which layers hold a router or experts.</summary>
    public IReadOnlyList<bool> MoeLayers { get; private init; } = [];

    public static CheckpointFacts Of(StoredTensors tensors)
    {
        var layers = LayersOf(tensors, out var last);
        var embedding = tensors.Find("embed_tokens.weight");
        var head = tensors.Find("lm_head.weight");
        var hidden = embedding is { Shape.Length: 2 } ? Fact(embedding, embedding.Shape[1]) : tensors.Find("norm.weight") is { Shape.Length: 1 } norm ? Fact(norm, norm.Shape[0]) : null;
        var moe = layers.IndexOf(true);
        var dense = layers.FindIndex(0, layer => !layer);
        return new CheckpointFacts
        {
            HiddenSize = hidden,
            VocabSize = embedding is { Shape.Length: 2 } ? Fact(embedding, embedding.Shape[0]) : Other(head, hidden),
            LayerCount = last is null ? null : new SizeFact(layers.Count, last.Name),
            IntermediateSize = dense < 0 ? null : WidthOf(tensors, $"layers.{dense}.mlp", hidden),
            QueryWidth = OutputsOf(tensors, "layers.0.self_attn.q_proj", hidden),
            KeyWidth = OutputsOf(tensors, "layers.0.self_attn.k_proj", hidden),
            QkvWidth = OutputsOf(tensors, "layers.0.self_attn.qkv_proj", hidden),
            ExpertCount = moe < 0 ? null : Other(tensors.Find($"layers.{moe}.mlp.gate.weight"), hidden),
            ExpertIntermediateSize = moe < 0 ? null : ExpertWidthOf(tensors, $"layers.{moe}.mlp.experts", hidden),
            SharedWidth = moe < 0 ? null : WidthOf(tensors, $"layers.{moe}.mlp.shared_experts", hidden),
            HasSharedExperts = tensors.Stems.Any(static pair => pair.Key.Contains(".mlp.shared_experts.", StringComparison.Ordinal)),
            HasEmbedding = embedding is not null,
            HasHead = head is not null,
            HasCorrectionBias = tensors.Stems.Any(static pair => pair.Key.EndsWith(".e_score_correction_bias", StringComparison.Ordinal)),
            MoeLayers = layers,
        };
    }

    private static List<bool> LayersOf(StoredTensors tensors, out StoredTensor? last)
    {
        var layers = new List<bool>();
        last = null;
        foreach (var (stem, tensor) in tensors.Stems)
        {
            if (!LayerNames.TryParse(stem, out var layer, out var rest)) continue;
            if (layer >= ErnieConfigLimits.Layers) throw new InvalidDataException($"{tensor.File}: tensor '{tensor.Name}' belongs to layer {layer}; more than {ErnieConfigLimits.Layers} layers are not read.");
            while (layers.Count <= layer) layers.Add(false);
            if (layer == layers.Count - 1) last = tensor;
            layers[layer] |= rest is "mlp.gate.weight" || rest.StartsWith("mlp.experts.", StringComparison.Ordinal);
        }
        return layers;
    }

    private static SizeFact? WidthOf(StoredTensors tensors, string mlp, SizeFact? hidden) =>
        OutputsOf(tensors, $"{mlp}.gate_proj", hidden)
        ?? Half(OutputsOf(tensors, $"{mlp}.up_gate_proj", hidden))
        ?? Half(OutputsOf(tensors, $"{mlp}.gate_up_proj", hidden));

    private static SizeFact? ExpertWidthOf(StoredTensors tensors, string experts, SizeFact? hidden) =>
        WidthOf(tensors, $"{experts}.0", hidden) ?? Half(Other(tensors.Find($"{experts}.gate_up_proj"), hidden));

    /// <summary>Outputs of a matrix whose inputs are the hidden state. A quantised one has a scale for each: <c>super_scales</c> where <c>weight_scale</c> has one for each group.</summary>
    private static SizeFact? OutputsOf(StoredTensors tensors, string matrix, SizeFact? hidden) =>
        Other(tensors.Find($"{matrix}.weight"), hidden)
        ?? ((tensors.Find($"{matrix}.super_scales") ?? tensors.Find($"{matrix}.weight_scale")) is { Shape: [_] or [1, _] } scales ? Fact(scales, scales.Shape[^1]) : null);

    /// <summary>The dimension that is not the hidden size, of the last two.</summary>
    private static SizeFact? Other(StoredTensor? tensor, SizeFact? hidden)
    {
        if (tensor is not { Shape.Length: 2 or 3 } || hidden is not { Value: var h }) return null;
        var (first, second) = (tensor.Shape[^2], tensor.Shape[^1]);
        return second == h ? Fact(tensor, first) : first == h ? Fact(tensor, second) : null;
    }

    private static SizeFact? Half(SizeFact? fact) => fact is { } f && f.Value % 2 == 0 ? f with { Value = f.Value / 2 } : null;

    private static SizeFact? Fact(StoredTensor tensor, long value) => value is > 0 and <= int.MaxValue ? new SizeFact((int)value, $"{tensor.Name} {tensor.Entry.ShapeText}") : null;
}
