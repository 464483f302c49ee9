using System.Globalization;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Checkpoints;

/// <summary>The weight files of a checkpoint folder, found and opened.</summary>
internal sealed partial class CheckpointFiles : IDisposable
{
    private const string Single = "model.safetensors";
    private const string Cure = "Download the missing or damaged files again.";
    private readonly List<SafetensorsFile> _files = [];

    private CheckpointFiles() { }

    public StoredTensors Tensors { get; } = new();

    /// <summary>Element types as declared in the headers, with tensors and bytes of each; tensors that inference skips included.</summary>
    public IEnumerable<(string ElementType, int Tensors, long Bytes)> ElementTypes =>
        _files.SelectMany(static f => f.Entries).GroupBy(static e => e.ElementType).OrderBy(static g => g.Key, StringComparer.Ordinal)
            .Select(static g => (g.Key, g.Count(), g.Sum(static e => e.ByteLength)));

    public IEnumerable<string> Names => _files.Select(static f => f.Name);

    public static CheckpointFiles Open(string folder, ICollection<string> notes)
    {
        RefuseOtherFormats(folder);
        var files = new CheckpointFiles();
        try
        {
            files.OpenAll(folder, notes);
            files.Tensors.NoteSkipped(notes);
            return files;
        }
        catch
        {
            files.Dispose();
            throw;
        }
    }

    /// <summary>Reads a small file whole; its real length bounds what is allocated.</summary>
    public static byte[] ReadSmall(string path, long max)
    {
        using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
        if (stream.Length > max) throw new InvalidDataException($"{path}: {stream.Length} bytes, more than the {max} allowed. Download the file again.");
        var bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }

    public void Dispose()
    {
        foreach (var file in _files) file.Dispose();
    }

    private static void RefuseOtherFormats(string folder)
    {
        // Checkpoints that are already cut for tensor parallelism.
        if (!Directory.Exists(Path.Combine(folder, "rank0"))) return;
        var ranks = Directory.EnumerateDirectories(folder, "rank*").Count(static path => RankFolder().IsMatch(Path.GetFileName(path)));
        throw new NotSupportedException($"{folder}: the weights are cut for tensor parallelism of {ranks} (folders rank0, …). {UnsupportedFeatures.FormatsRead}");
    }

    private void OpenAll(string folder, ICollection<string> notes)
    {
        var single = Path.Combine(folder, Single);
        var index = Path.Combine(folder, ShardIndex.FileName);
        if (File.Exists(single))
        {
            if (File.Exists(index)) notes.Add($"{Single} is read; {ShardIndex.FileName} beside it is not.");
            var file = Add(single);
            foreach (var entry in file.Entries) Tensors.Add(new StoredTensor(file, file.Name, entry));
        }
        else if (File.Exists(index)) OpenIndexed(folder, ShardIndex.Parse(ReadSmall(index, ShardIndex.MaxBytes), index), notes);
        else OpenUnindexed(folder, notes);
    }

    private void OpenIndexed(string folder, Dictionary<string, string> index, ICollection<string> notes)
    {
        var shards = index.Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal).ToArray();
        var missing = new ProblemList($"{folder}: files named in {ShardIndex.FileName} are missing", Cure);
        foreach (var shard in shards.Where(shard => !File.Exists(Path.Combine(folder, shard)))) missing.Add(shard);
        missing.ThrowIfAny();

        var found = new HashSet<string>(StringComparer.Ordinal);
        var unlisted = new List<string>();
        foreach (var shard in shards)
        {
            var file = Add(Path.Combine(folder, shard));
            foreach (var entry in file.Entries)
            {
                if (!index.TryGetValue(entry.Name, out var listed)) unlisted.Add(entry.Name);
                // The index has the last word on a tensor that two shards hold.
                else if (listed != shard) continue;
                else found.Add(entry.Name);
                Tensors.Add(new StoredTensor(file, file.Name, entry));
            }
        }
        var absent = new ProblemList($"{folder}: {ShardIndex.FileName} lists tensors that their files do not hold", Cure);
        foreach (var (name, shard) in index.Where(pair => !found.Contains(pair.Key))) absent.Add($"{name} in {shard}");
        absent.ThrowIfAny();
        if (unlisted.Count > 0) notes.Add($"{unlisted.Count} tensors are in the shards but not in {ShardIndex.FileName} ({string.Join(", ", unlisted.Take(3))}, …): read as if they were listed.");
    }

    private void OpenUnindexed(string folder, ICollection<string> notes)
    {
        var shards = Directory.EnumerateFiles(folder, "model-*.safetensors").Order(StringComparer.Ordinal).ToArray();
        if (shards.Length == 0) throw new FileNotFoundException($"{folder}: neither {Single} nor {ShardIndex.FileName} nor model-*.safetensors is there. {Alternative(folder)}{UnsupportedFeatures.FormatsRead}");
        var numbers = shards.Select(static path => ShardName().Match(Path.GetFileName(path))).Where(static match => match.Success).ToArray();
        if (numbers.Length > 0 && int.TryParse(numbers[0].Groups[2].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var total))
        {
            var present = numbers.Select(static match => int.TryParse(match.Groups[1].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture, out var n) ? n : 0).ToHashSet();
            var missing = new ProblemList($"{folder}: shards of {total} are missing", Cure);
            for (var i = 1; i <= Math.Min(total, 100_000); i++)
            {
                if (!present.Contains(i)) missing.Add($"number {i}");
            }
            missing.ThrowIfAny();
        }
        notes.Add($"There is no {ShardIndex.FileName}: all {shards.Length} model-*.safetensors are read.");
        foreach (var shard in shards)
        {
            var file = Add(shard);
            foreach (var entry in file.Entries) Tensors.Add(new StoredTensor(file, file.Name, entry));
        }
    }

    private static string Alternative(string folder)
    {
        foreach (var pattern in (ReadOnlySpan<string>)["*.pdparams", "*.gguf", "*.bin", "*.onnx"])
        {
            if (Directory.EnumerateFiles(folder, pattern).FirstOrDefault() is { } path) return $"{Path.GetFileName(path)} is of a format that is not read as a checkpoint. ";
        }
        return "";
    }

    private SafetensorsFile Add(string path)
    {
        var file = SafetensorsFile.Open(path);
        _files.Add(file);
        return file;
    }

    [GeneratedRegex("^model-([0-9]{1,6})-of-([0-9]{1,6})\\.safetensors$")]
    private static partial Regex ShardName();

    [GeneratedRegex("^rank[0-9]+$")]
    private static partial Regex RankFolder();
}
