using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Export;

/// <summary>Exports of checkpoints that were loaded directly, one folder for each content and set of options.</summary>
/// <remarks>
/// The key is what the export depends on: the checkpoint's content (<see cref="CheckpointContent"/>), precisions, calibration text and the format's version. Path, name and times are left out on purpose: to copy or touch a
/// folder must not cost an hour and 12 GB again. So is the library's version: whatever makes older exports wrong raises the format's.
/// </remarks>
internal static class ExportCache
{
    /// <summary>The exported model of <paramref name="path"/>: itself, or an export of it in the cache, made now if need be.</summary>
    /// <returns>The folder, and the checkpoint's name, which an export that another folder of the same content made does not have; null for what is exported already.</returns>
    public static async Task<(string Folder, string? Name)> ResolveAsync(string path, ErnieModelOptions options, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var folder = System.IO.Path.GetFullPath(path);
        if (File.Exists(folder)) throw new InvalidDataException($"{folder} is a file. Name the folder that it lies in: an exported model or a checkpoint.");
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"There is no folder {folder}. Name an exported model or a checkpoint.{(IsHubName(path) ? $" If {path} is a repository of a hub, download it with `ernie pull {path} FOLDER` and name that folder." : "")}");
        if (File.Exists(System.IO.Path.Combine(folder, ModelManifest.FileName))) return (folder, null);
        if (!File.Exists(System.IO.Path.Combine(folder, "config.json")))
            throw new InvalidDataException($"{folder} holds neither an exported model ({ModelManifest.FileName}) nor a checkpoint (config.json).");

        var cache = CacheFolder(options);
        var name = System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(folder));
        var target = Entry(cache, name, Key(folder, options.Export));
        var reason = RemoveIfDamaged(target) ? "the earlier export is damaged" : Directory.Exists(target + ".exporting") ? "the earlier export was not finished" : "no export of its content with these options is there";
        if (!File.Exists(System.IO.Path.Combine(target, ModelManifest.FileName)))
        {
            // Before hours of work, and before any is announced.
            using var checkpoint = Checkpoint.Open(folder);
            ErnieModelOptions.CheckContext(checkpoint.Config.ContextLength, options);
        }
        for (var isFirst = true; !File.Exists(System.IO.Path.Combine(target, ModelManifest.FileName)); isFirst = false)
        {
            if (isFirst) Announce(options, $"exporting {folder} into {target}, because {reason}");
            try
            {
                await ErnieExporter.ExportAsync(folder, target, options.Export, progress, cancellationToken).ConfigureAwait(false);
            }
            catch (ExportInProgressException)
            {
                if (isFirst) Announce(options, $"another process exports into {target}; waiting for it");
                await Task.Delay(TimeSpan.FromMilliseconds(500), cancellationToken).ConfigureAwait(false);
            }
            catch (IOException) when (File.Exists(System.IO.Path.Combine(target, ModelManifest.FileName)))
            {
                // Another process was faster.
            }
        }
        CachedExport.Used(target, folder);
        return (target, options.Export.ModelName ?? name);
    }

    /// <summary>The folder that exports go to unless somebody says otherwise; empty without a home directory.</summary>
    public static string DefaultFolder => System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify), "ernie-sdk");

    /// <summary>A copy of the checkpoint under another name finds the export of the first.</summary>
    private static string Entry(string cache, string name, string key)
    {
        const string Partial = ".exporting";
        foreach (var suffix in (ReadOnlySpan<string>)["", Partial])
        {
            if (Directory.EnumerateDirectories(cache, $"*-{key}{suffix}").Order(StringComparer.Ordinal).FirstOrDefault() is { } found) return found[..^suffix.Length];
        }
        return System.IO.Path.Combine(cache, $"{name}-{key}");
    }

    private static void Announce(ErnieModelOptions options, string what)
    {
        if (options.ExportNotice is { } notice) notice(what);
        else options.LoggerFactory?.CreateLogger<ErnieModel>().LogInformation("{What}", what);
    }

    /// <summary>Whether it may be owner/name, as hubs name repositories.</summary>
    private static bool IsHubName(string path) =>
        path.Split('/') is [var owner, var name] && owner is not ("." or "..") && new[] { owner, name }.All(static part => part.Length > 0 && part.All(static c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.'));

    private static string CacheFolder(ErnieModelOptions options)
    {
        // Without a home directory .NET gives an empty path.
        var cache = options.CacheDirectory ?? DefaultFolder;
        if (cache.Length == 0) throw new ArgumentException("ErnieModelOptions.CacheDirectory is empty. Name a folder, or leave it null.", nameof(options));
        try
        {
            return Directory.CreateDirectory(cache).FullName;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"The cache folder {cache} for exports of checkpoints cannot be made: {e.Message} Set ErnieModelOptions.CacheDirectory to a folder that can be written, or export the checkpoint yourself.", e);
        }
    }

    /// <summary>What lies in the cache can be made again: an entry that lost files, to a cleaner perhaps, is removed instead of failing every load.</summary>
    private static bool RemoveIfDamaged(string target)
    {
        if (!Directory.Exists(target)) return false;
        try
        {
            ModelVerifier.Check(target, ModelManifest.Read(target));
            return false;
        }
        catch (Exception e) when (e is InvalidDataException or FileNotFoundException)
        {
            Directory.Delete(target, recursive: true);
            return true;
        }
    }

    private static string Key(string folder, ErnieExportOptions options)
    {
        var calibration = !options.Calibrate ? "none" : options.CalibrationFile is not { } file ? "" : File.Exists(file) ? CheckpointContent.OfFile(file) : "missing";
        return ExportIdentity.Hash(string.Create(CultureInfo.InvariantCulture,
            $"{ModelManifest.CurrentVersion}|{options.Experts}|{options.Dense}|{options.GroupSize}|{string.Join(',', options.Int4Layers)}|{calibration}|{CheckpointContent.OfFolder(folder)}"))[..16];
    }
}
