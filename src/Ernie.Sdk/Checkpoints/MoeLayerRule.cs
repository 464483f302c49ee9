namespace Ernie.Sdk.Checkpoints;

/// <summary>Which layers are mixtures of experts: <c>(i + 1) % interval == 0</c> and <c>start &lt;= i &lt;= end</c>, as transformers has it.</summary>
internal sealed class MoeLayerRule(JsonKeys keys, CheckpointFacts? facts, ICollection<string> notes)
{
    public bool[] Read(int layerCount)
    {
        var start = (int?)keys.Integer("moe_layer_start_index", 0, ErnieConfigLimits.Layers);
        var end = (int?)keys.Integer("moe_layer_end_index", -1, ErnieConfigLimits.Layers);
        var interval = (int?)keys.Integer("moe_layer_interval", 1, ErnieConfigLimits.Layers);
        if (end >= layerCount) throw Contradiction("moe_layer_end_index", end.Value, $"there are {layerCount} layers");
        var rule = Layers(layerCount, start ?? 1, end ?? -1, interval ?? 1);
        if (facts is null)
        {
            foreach (var (key, absent, taken) in new[] { ("moe_layer_start_index", start is null, "1"), ("moe_layer_end_index", end is null, "-1 (the last layer)"), ("moe_layer_interval", interval is null, "1") })
            {
                if (absent) notes.Add($"{key} is absent: {taken}, transformers' default.");
            }
            return rule;
        }
        var stored = facts.MoeLayers.ToArray();
        Array.Resize(ref stored, layerCount);
        for (var layer = 0; layer < layerCount; layer++)
        {
            if (!stored[layer]) continue;
            if (layer < start) throw Contradiction("moe_layer_start_index", start.Value, $"layer {layer} holds experts");
            if (end >= 0 && layer > end) throw Contradiction("moe_layer_end_index", end.Value, $"layer {layer} holds experts");
            if (interval is { } step && (layer + 1) % step != 0) throw Contradiction("moe_layer_interval", step, $"layer {layer} holds experts");
        }
        if (rule.AsSpan().SequenceEqual(stored)) return rule;
        if (start is not null && end is not null && interval is not null)
        {
            var layer = rule.AsSpan().CommonPrefixLength(stored);
            throw Contradiction("moe_layer_start_index", start.Value, $"with end {end} and interval {interval} layer {layer} must hold experts, and the checkpoint has none for it");
        }
        notes.Add($"Which layers are mixtures of experts follows from the tensors, for moe_layer_start_index, _end_index or _interval is absent: {stored.Count(static moe => moe)} of {layerCount}.");
        return stored;
    }

    public static bool[] Layers(int layerCount, int start, int end, int interval)
    {
        var layers = new bool[layerCount];
        var last = end < 0 ? layerCount - 1 : end;
        for (var i = 0; i < layerCount; i++) layers[i] = (i + 1) % interval == 0 && i >= start && i <= last;
        return layers;
    }

    private InvalidDataException Contradiction(string key, int value, string against) =>
        new($"{keys.File}: '{key}' is {value}, but {against}. Take config.json and weights from the same repository.");
}
