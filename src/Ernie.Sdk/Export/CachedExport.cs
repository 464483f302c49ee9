using System.Text;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Export;

/// <summary>One folder of the cache of exports.</summary>
/// <param name="Folder">Where it lies.</param>
/// <param name="Bytes">Size of its files.</param>
/// <param name="Checkpoint">The checkpoint that it was last loaded for; null where nothing says so.</param>
/// <param name="LastUse">When it was last loaded, or written, in UTC.</param>
/// <param name="IsComplete">Whether it is a model; otherwise what an interrupted export left, or is writing just now.</param>
/// <param name="Format">The format that its manifest says; null where it has none that says so.</param>
internal sealed partial record CachedExport(string Folder, long Bytes, string? Checkpoint, DateTime LastUse, bool IsComplete, int? Format)
{
    /// <summary>Whether an earlier version wrote it whose format this one does not load. No load finds it, even of the same checkpoint.</summary>
    public bool IsOutdated => IsComplete && Format < ModelManifest.CurrentVersion;

    /// <summary>Says in its text which checkpoint was loaded and by its time when; no part of the model.</summary>
    private const string UseFile = ".checkpoint";
    private const string PartialSuffix = ".exporting";

    /// <summary>Folders that <see cref="ExportCache"/> has made in <paramref name="cache"/>, the one that was used last first. Others are none of its business.</summary>
    public static IReadOnlyList<CachedExport> All(string cache) =>
        !Directory.Exists(cache) ? [] : [.. Directory.EnumerateDirectories(cache).Where(static path => EntryName().IsMatch(Path.GetFileName(path))).Select(Read).OrderByDescending(static entry => entry.LastUse)];

    /// <summary>Remembers a use. A cache that cannot be written serves as well without.</summary>
    public static void Used(string folder, string checkpoint)
    {
        try
        {
            File.WriteAllText(Path.Combine(folder, UseFile), checkpoint);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Then the time of the export stands for it.
        }
    }

    /// <summary>Removes the folder. Processes that have loaded the model keep it on Linux and macOS; on Windows they prevent this.</summary>
    /// <exception cref="IOException">An export is writing it, or it cannot be removed.</exception>
    public void Delete()
    {
        if (IsComplete)
        {
            // Without its manifest no load takes it for a model, should the rest fail.
            File.Delete(Path.Combine(Folder, ModelManifest.FileName));
            Directory.Delete(Folder, recursive: true);
            return;
        }
        using var @lock = new FileStream(Folder + ".lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        Directory.Delete(Folder, recursive: true);
    }

    private static CachedExport Read(string folder)
    {
        var files = new DirectoryInfo(folder).GetFiles("*", SearchOption.AllDirectories);
        var use = Array.Find(files, static file => file.Name == UseFile);
        string? checkpoint = null;
        try
        {
            // Arbitrary: no path is longer.
            if (use is { Length: <= 32 << 10 }) checkpoint = File.ReadAllText(use.FullName, Encoding.UTF8);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Not known, then.
        }
        var last = use?.LastWriteTimeUtc ?? files.Select(static file => file.LastWriteTimeUtc).DefaultIfEmpty(Directory.GetLastWriteTimeUtc(folder)).Max();
        return new CachedExport(folder, files.Sum(static file => file.Length), checkpoint, last, !folder.EndsWith(PartialSuffix, StringComparison.Ordinal), ModelManifest.VersionOf(folder));
    }

    /// <summary>The checkpoint's name and the key of <see cref="ExportCache"/>.</summary>
    [GeneratedRegex("-[0-9a-f]{16}(\\.exporting)?$")]
    private static partial Regex EntryName();
}
