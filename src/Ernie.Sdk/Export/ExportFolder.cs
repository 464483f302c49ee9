using System.Security.Cryptography;

namespace Ernie.Sdk.Export;

/// <summary>
/// A model folder in the making: files are written to <c>NAME.exporting</c>, which is renamed when complete. Whatever happens before leaves nothing under NAME.
/// </summary>
internal sealed class ExportFolder : IDisposable
{
    private const string LockName = ".lock";

    /// <summary>What a checkpoint may hold besides weights: tokenizer, templates, generation defaults.</summary>
    private static readonly string[] s_sideFiles =
    [
        "config.json", "generation_config.json", "tokenizer.model", "spm.model", "ernie_token_100k.model", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "LICENSE", "plas_attention_mlp_weight.safetensors",
    ];

    private readonly string _target;
    private readonly string _partial;
    private FileStream? _lock;
    private bool _complete;

    private ExportFolder(string target, string partial, FileStream @lock) => (_target, _partial, _lock) = (target, partial, @lock);

    public static ExportFolder Create(string output)
    {
        var target = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(output));
        if (File.Exists(target)) throw new IOException($"{target} is a file; name a folder to create.");
        if (Directory.Exists(target) && Directory.EnumerateFileSystemEntries(target).Any())
            throw new IOException($"{target} exists and is not empty. Delete it first, or export to another folder.");
        var partial = target + ".exporting";
        Directory.CreateDirectory(partial);
        FileStream @lock;
        try
        {
            @lock = new FileStream(System.IO.Path.Combine(partial, LockName), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (IOException e)
        {
            throw new ExportInProgressException(partial, e);
        }
        // Leftovers of an export that was killed.
        foreach (var stale in Directory.EnumerateFiles(partial))
        {
            if (System.IO.Path.GetFileName(stale) != LockName) File.Delete(stale);
        }
        return new ExportFolder(target, partial, @lock);
    }

    public string Path(string file) => System.IO.Path.Combine(_partial, file);

    /// <summary>Fails before hours of work where the disk cannot hold the result.</summary>
    public void RequireSpace(long bytes)
    {
        const long Reserve = 64 << 20;
        long free;
        try
        {
            free = new DriveInfo(_partial).AvailableFreeSpace;
        }
        catch (Exception e) when (e is IOException or ArgumentException or UnauthorizedAccessException)
        {
            return; // Some file systems do not tell; writing will.
        }
        if (free < bytes + Reserve) throw new IOException($"The model needs {bytes:N0} bytes in {_target}, the disk has {free:N0} free. Free some space or choose another disk.");
    }

    public void CopySideFiles(string checkpoint)
    {
        foreach (var name in s_sideFiles)
        {
            var source = System.IO.Path.Combine(checkpoint, name);
            // A stream copy, so that the copy does not inherit a read-only checkpoint's permissions.
            if (!File.Exists(source)) continue;
            using var from = File.OpenRead(source);
            using var to = File.Create(Path(name));
            from.CopyTo(to);
        }
    }

    /// <summary>Sizes and checksums of the files written so far, the weight file apart.</summary>
    public IReadOnlyList<ManifestFile> Files() =>
    [
        .. Directory.EnumerateFiles(_partial)
            .Where(path => System.IO.Path.GetFileName(path) is not (LockName or ModelManifest.WeightFile or ModelManifest.FileName))
            .Order(StringComparer.Ordinal)
            .Select(path => new ManifestFile(System.IO.Path.GetFileName(path), new FileInfo(path).Length, Checksum(path))),
    ];

    /// <summary>Writes the manifest and gives the folder its name.</summary>
    public void Complete(byte[] manifest)
    {
        File.WriteAllBytes(Path(ModelManifest.FileName), manifest);
        ReleaseLock();
        if (Directory.Exists(_target)) Directory.Delete(_target);
        Directory.Move(_partial, _target);
        _complete = true;
    }

    public void Dispose()
    {
        ReleaseLock();
        if (_complete) return;
        try
        {
            Directory.Delete(_partial, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The next export to this place removes it.
        }
    }

    internal static string Checksum(string path)
    {
        using var stream = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }

    private void ReleaseLock()
    {
        _lock?.Dispose();
        _lock = null;
    }
}
