using Ernie.Sdk.Quantization;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A checkpoint folder, opened: its configuration, and every weight under its canonical name.</summary>
/// <remarks>Weights stay in their mapped files; only what is read is touched. Reading is thread-safe, and fails after disposal.</remarks>
internal sealed class Checkpoint : IWeightSource, IDisposable
{
    private readonly CheckpointFiles _files;
    private readonly AttentionGates? _gates;
    private readonly IReadOnlyDictionary<string, CheckpointTensor> _tensors;

    private Checkpoint(string folder, CheckpointFiles files, AttentionGates? gates, ErnieConfig config, TensorBinder binder, List<string> notes)
    {
        Folder = folder;
        Config = config;
        _files = files;
        _gates = gates;
        var tensors = binder.Bind(notes);
        _tensors = gates is null ? tensors : new Dictionary<string, CheckpointTensor>(tensors.Concat(gates.Tensors), StringComparer.Ordinal);
        Layout = binder.Layout;
        QuantisedMatrices = binder.QuantisedMatrices;
        Notes = notes;
    }

    public string Folder { get; }
    public ErnieConfig Config { get; }
    public CheckpointLayout Layout { get; }
    /// <summary>Stored quantised matrices by format; empty if the checkpoint is not quantised.</summary>
    public IReadOnlyDictionary<FastDeployFormat, int> QuantisedMatrices { get; }
    /// <summary>What the reader had to decide: defaults taken for absent keys, keys overruled by tensors, tensors skipped.</summary>
    public IReadOnlyList<string> Notes { get; }
    /// <summary>Weight files, as opened.</summary>
    public IEnumerable<string> FileNames => _gates is null ? _files.Names : _files.Names.Append(AttentionGates.FileName);
    /// <summary>Element types as declared in the headers, with tensors and bytes of each.</summary>
    public IEnumerable<(string ElementType, int Tensors, long Bytes)> ElementTypes => _files.ElementTypes;
    /// <summary>Canonical names of all weights. In a tied model <see cref="TensorNames.Head"/> is among them and gives the embedding.</summary>
    public IEnumerable<string> TensorKeys => _tensors.Keys;

    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="FileNotFoundException">The folder holds no <c>config.json</c> or no safetensors file.</exception>
    /// <exception cref="InvalidDataException">The files are damaged, incomplete or contradict each other.</exception>
    /// <exception cref="NotSupportedException">The model or its format is recognised, but not read.</exception>
    public static Checkpoint Open(string folder, ILogger? logger = null)
    {
        if (File.Exists(folder)) throw new InvalidDataException($"{folder} is a file. Name the checkpoint's folder.");
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"There is no folder {folder}. Name a checkpoint's folder.");
        if (File.Exists(Path.Combine(folder, "ernie.json"))) throw new InvalidDataException($"{folder} is an exported model already. Name the checkpoint that it was made from.");
        var path = Path.Combine(folder, "config.json");
        if (!File.Exists(path)) throw new FileNotFoundException($"{folder}: there is no config.json. Name the folder that holds config.json and the safetensors files.", path);
        var json = CheckpointFiles.ReadSmall(path, JsonKeys.MaxBytes);
        var notes = new List<string>();
        Wint2Config? quantization;
        using (var keys = JsonKeys.Parse(json, path))
        {
            // Before the weights are looked at: a vision-language checkpoint, or one quantised in another way, is told by its name, not by its tensors.
            UnsupportedFeatures.ThrowIfAny(keys);
            quantization = Wint2Config.Read(keys, notes);
        }
        var files = CheckpointFiles.Open(folder, notes);
        AttentionGates? gates = null;
        try
        {
            if (quantization is null) UnknownTensors.ThrowIfQuantised(files.Tensors);
            var config = ErnieConfigReader.Parse(json, path, notes, CheckpointFacts.Of(files.Tensors));
            gates = AttentionGates.Open(folder, config);
            if (gates is not null) config = config with { HasAttentionGates = true };
            var checkpoint = new Checkpoint(folder, files, gates, config, new TensorBinder(files.Tensors, config, folder, quantization), notes);
            foreach (var note in notes) logger?.LogInformation("{Folder}: {Note}", folder, note);
            return checkpoint;
        }
        catch
        {
            gates?.Dispose();
            files.Dispose();
            throw;
        }
    }

    /// <exception cref="ArgumentException">The model has no such weight.</exception>
    public CheckpointTensor Tensor(string canonicalName) =>
        _tensors.TryGetValue(canonicalName, out var tensor) ? tensor : throw new ArgumentException($"{Folder}: the model has no weight '{canonicalName}'.", nameof(canonicalName));

    public void Dispose()
    {
        _gates?.Dispose();
        _files.Dispose();
    }
}
