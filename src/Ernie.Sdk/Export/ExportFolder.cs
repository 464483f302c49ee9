using System.Security.Cryptography;

namespace Ernie.Sdk.Export;

/// <summary>
/// A model folder in the making: files are written to <c>NAME.exporting</c>, which is renamed when complete. Whatever happens before leaves nothing under NAME.
/// </summary>
/// <remarks>
/// An export that is killed leaves that folder; the next export of the same goes on from its journal, any other replaces it. One that fails or is cancelled removes it.
/// The lock lies beside that folder and is held until the folder has its name: inside, it would have to be given up before the renaming, and another export could take the finished files for leftovers.
/// </remarks>
internal sealed class ExportFolder : IDisposable
{
    private const string LockSuffix = ".lock";

    /// <summary>What a checkpoint may hold besides weights: tokenizer, templates, generation defaults.</summary>
    private static readonly string[] s_sideFiles =
    [
        "config.json", "generation_config.json", "tokenizer.model", "spm.model", "ernie_token_100k.model", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "LICENSE",
    ];

    private readonly string _target;
    private readonly string _partial;
    private readonly FileStream _lock;
    private bool _complete;

    private ExportFolder(string target, string partial, FileStream @lock) => (_target, _partial, _lock) = (target, partial, @lock);

    /// <param name="output">The folder to create.</param>
    /// <param name="identity">What is exported: leftovers of a killed export of the same are continued. Null: nothing is.</param>
    public static ExportFolder Create(string output, string? identity)
    {
        var target = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(output));
        if (File.Exists(target)) throw new IOException($"{target} is a file; name a folder to create.");
        if (Directory.Exists(target) && Directory.EnumerateFileSystemEntries(target).Any())
            throw new IOException($"{target} exists and is not empty. Delete it first, or export to another folder.");
        var partial = target + ".exporting";
        FileStream @lock;
        try
        {
            if (System.IO.Path.GetDirectoryName(target) is { } parent) Directory.CreateDirectory(parent);
            @lock = new FileStream(partial + LockSuffix, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (IOException e) when (IsSharingViolation(e))
        {
            throw new ExportInProgressException(partial, e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"{target} cannot be written: {e.Message} Choose a folder that you may write to.", e);
        }
        try
        {
            RemoveLeftovers(partial, identity);
            Directory.CreateDirectory(partial);
            return new ExportFolder(target, partial, @lock) { Journal = identity is null ? null : ExportJournal.Open(partial, identity) };
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            @lock.Dispose();
            throw new IOException($"{partial} cannot be made anew: {e.Message} Delete it, or choose another folder.", e);
        }
    }

    /// <summary>What an export of the same has finished; null where it cannot be continued.</summary>
    public ExportJournal? Journal { get; private init; }

    /// <summary>Of an export that was killed, only weights with a journal of the same export stay.</summary>
    private static void RemoveLeftovers(string partial, string? identity)
    {
        if (!Directory.Exists(partial)) return;
        if (identity is null || !ExportJournal.IsOf(partial, identity))
        {
            Directory.Delete(partial, recursive: true);
            return;
        }
        foreach (var file in Directory.EnumerateFiles(partial))
        {
            if (System.IO.Path.GetFileName(file) is not (ModelManifest.WeightFile or ExportJournal.FileName)) File.Delete(file);
        }
    }

    public string Path(string file) => System.IO.Path.Combine(_partial, file);

    /// <summary>Fails before hours of work where the disk cannot hold the result.</summary>
    public void RequireSpace(long bytes)
    {
        const long Reserve = 64 << 20;
        var weights = new FileInfo(Path(ModelManifest.WeightFile));
        // Taken already by the export that is continued.
        if (weights.Exists) bytes -= Math.Min(bytes, weights.Length);
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
            Write(name, from);
        }
    }

    public void Write(string name, byte[] bytes) => Write(name, new MemoryStream(bytes, writable: false));

    private void Write(string name, Stream content)
    {
        try
        {
            using var to = File.Create(Path(name));
            content.CopyTo(to);
        }
        catch (IOException e)
        {
            throw WritingFailed(Path(name), e);
        }
    }

    /// <summary>What a full disk comes to.</summary>
    public static IOException WritingFailed(string path, IOException e) => new($"{path} cannot be written: {e.Message} Nothing was exported; free some space and export again.", e);

    /// <summary>Sizes and checksums of the files written so far, the weight file apart.</summary>
    public IReadOnlyList<ManifestFile> Files() =>
    [
        .. Directory.EnumerateFiles(_partial)
            .Where(path => System.IO.Path.GetFileName(path) is not (ModelManifest.WeightFile or ModelManifest.FileName or ExportJournal.FileName))
            .Order(StringComparer.Ordinal)
            .Select(path => new ManifestFile(System.IO.Path.GetFileName(path), new FileInfo(path).Length, Checksum(path))),
    ];

    /// <summary>Writes the manifest and gives the folder its name.</summary>
    public void Complete(byte[] manifest)
    {
        Write(ModelManifest.FileName, manifest);
        Journal?.Dispose();
        File.Delete(Path(ExportJournal.FileName));
        if (Directory.Exists(_target)) Directory.Delete(_target);
        Directory.Move(_partial, _target);
        _complete = true;
    }

    public void Dispose()
    {
        Journal?.Dispose();
        try
        {
            if (!_complete) Directory.Delete(_partial, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The next export to this place removes it.
        }
        _lock.Dispose();
    }

    internal static string Checksum(string path)
    {
        using var stream = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }

    /// <summary>Whether another process holds the file; other failures to open it have other cures.</summary>
    private static bool IsSharingViolation(IOException e)
    {
        const int WindowsSharingViolation = unchecked((int)0x80070020), LinuxWouldBlock = 11, MacWouldBlock = 35;
        return e.HResult == (OperatingSystem.IsWindows() ? WindowsSharingViolation : OperatingSystem.IsMacOS() ? MacWouldBlock : LinuxWouldBlock);
    }
}
