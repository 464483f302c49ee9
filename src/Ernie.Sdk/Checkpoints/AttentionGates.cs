using System.Globalization;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Checkpoints;

/// <summary>The learned gates of sparse attention: a file of their own beside the weights, with a tensor [kv heads, 128, head dim] for each layer but the last.</summary>
internal sealed class AttentionGates : IDisposable
{
    public const string FileName = "plas_attention_mlp_weight.safetensors";
    private const string Prefix = "layers.", Suffix = ".self_attn.attn_gate.weight";
    private readonly SafetensorsFile _file;

    private AttentionGates(string folder, SafetensorsFile file, ErnieConfig config)
    {
        _file = file;
        var cure = $"Take {FileName} from the repository of this checkpoint, or remove it: without gates blocks are summarised by their mean.";
        var missing = new ProblemList($"{folder}: {FileName} lacks gates", cure);
        var unknown = new ProblemList($"{folder}: {FileName} holds tensors that are no gates of this model", cure);
        var wrongShapes = new ProblemList($"{folder}: gates in {FileName} have another shape than [kv heads, {KvBlockLayout.BlockSize}, head dim] = [{config.KvHeadCount}, {KvBlockLayout.BlockSize}, {config.HeadDim}]", cure);
        var wrongTypes = new ProblemList($"{folder}: gates in {FileName} have an element type that is not read", cure);
        foreach (var entry in file.Entries)
        {
            var tensor = new StoredTensor(file, file.Name, entry);
            if (LayerOf(entry.Name) is not { } layer || layer >= config.LayerCount - 1) unknown.Add(tensor.ToString());
            else if (entry.Shape is not [var heads, KvBlockLayout.BlockSize, var channels] || heads != config.KvHeadCount || channels != config.HeadDim) wrongShapes.Add(tensor.ToString());
            else if (StoredTypes.FromSafetensors(entry.ElementType) is not { } type) wrongTypes.Add(tensor.ToString());
            else
            {
                var name = TensorNames.AttentionGate(layer);
                var gate = new RowMajorTensor { Name = name, File = file.Name, Rows = heads * KvBlockLayout.BlockSize, Columns = channels, Type = type, Source = file, Entry = entry, Offset = 0 };
                if (!Tensors.TryAdd(name, gate)) unknown.Add($"{tensor}, the second of its layer");
            }
        }
        unknown.ThrowIfAny();
        wrongShapes.ThrowIfAny();
        wrongTypes.ThrowIfAny();
        for (var layer = 0; layer < config.LayerCount - 1; layer++)
        {
            if (!Tensors.ContainsKey(TensorNames.AttentionGate(layer))) missing.Add($"ernie.layers.{layer}{Suffix}");
        }
        missing.ThrowIfAny();
    }

    /// <summary>By canonical name.</summary>
    public Dictionary<string, CheckpointTensor> Tensors { get; } = new(StringComparer.Ordinal);

    /// <summary>Null where the checkpoint has none.</summary>
    /// <exception cref="InvalidDataException">The file is damaged, or belongs to another model.</exception>
    public static AttentionGates? Open(string folder, ErnieConfig config)
    {
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path)) return null;
        var file = SafetensorsFile.Open(path);
        try
        {
            return new AttentionGates(folder, file, config);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public void Dispose() => _file.Dispose();

    private static int? LayerOf(string name)
    {
        var stem = StoredTensors.Stem(name);
        return stem.StartsWith(Prefix, StringComparison.Ordinal) && stem.EndsWith(Suffix, StringComparison.Ordinal) && stem.Length > Prefix.Length + Suffix.Length
            && int.TryParse(stem.AsSpan(Prefix.Length, stem.Length - Prefix.Length - Suffix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var layer) ? layer : null;
    }
}
