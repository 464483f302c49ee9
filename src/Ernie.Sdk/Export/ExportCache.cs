using System.Globalization;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Export;

/// <summary>Exports of checkpoints that were loaded directly, one folder for each checkpoint and precision.</summary>
internal static class ExportCache
{
    /// <summary>The exported model of <paramref name="path"/>: itself, or an export of it in the cache, made now if need be.</summary>
    public static async Task<string> ResolveAsync(string path, ErnieModelOptions options, IProgress<ErnieProgress>? progress, CancellationToken cancellationToken)
    {
        var folder = System.IO.Path.GetFullPath(path);
        if (File.Exists(folder)) throw new InvalidDataException($"{folder} is a file. Name the folder that it lies in: an exported model or a checkpoint.");
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"There is no folder {folder}. Name an exported model or a checkpoint.{(IsHubName(path) ? $" If {path} is a repository of a hub, download it with `ernie pull {path} FOLDER` and name that folder." : "")}");
        if (File.Exists(System.IO.Path.Combine(folder, ModelManifest.FileName))) return folder;
        if (!File.Exists(System.IO.Path.Combine(folder, "config.json")))
            throw new InvalidDataException($"{folder} holds neither an exported model ({ModelManifest.FileName}) nor a checkpoint (config.json).");

        var cache = CacheFolder(options);
        var name = System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(folder));
        var target = System.IO.Path.Combine(cache, $"{name}-{Key(folder, options.Export)}");
        RemoveIfDamaged(target);
        if (options.ContextLength is not null && !Directory.Exists(target))
        {
            // Before hours of work.
            using var checkpoint = Checkpoint.Open(folder);
            ErnieModelOptions.CheckContext(checkpoint.Config.ContextLength, options);
        }
        while (!File.Exists(System.IO.Path.Combine(target, ModelManifest.FileName)))
        {
            try
            {
                await ErnieExporter.ExportAsync(folder, target, options.Export, progress, cancellationToken).ConfigureAwait(false);
            }
            catch (ExportInProgressException)
            {
                // Another process exports the same checkpoint; its result will do.
                await Task.Delay(TimeSpan.FromMilliseconds(500), cancellationToken).ConfigureAwait(false);
            }
            catch (IOException) when (File.Exists(System.IO.Path.Combine(target, ModelManifest.FileName)))
            {
                // Another process was faster.
            }
        }
        return target;
    }

    /// <summary>Whether it may be owner/name, as hubs name repositories.</summary>
    private static bool IsHubName(string path) =>
        path.Split('/') is [var owner, var name] && owner is not ("." or "..") && new[] { owner, name }.All(static part => part.Length > 0 && part.All(static c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.'));

    private static string CacheFolder(ErnieModelOptions options)
    {
        // Without a home directory .NET gives an empty path.
        var cache = options.CacheDirectory ?? System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify), "ernie-sdk");
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
    private static void RemoveIfDamaged(string target)
    {
        if (!Directory.Exists(target)) return;
        try
        {
            ModelVerifier.Check(target, ModelManifest.Read(target));
        }
        catch (Exception e) when (e is InvalidDataException or FileNotFoundException)
        {
            Directory.Delete(target, recursive: true);
        }
    }

    /// <summary>Names what the export depends on: the checkpoint's files with size and time, the precisions and what they are fitted to, the format.</summary>
    private static string Key(string folder, ErnieExportOptions options)
    {
        var calibration = !options.Calibrate ? "none" : options.CalibrationFile is null ? "" : ExportIdentity.File(new FileInfo(options.CalibrationFile));
        return ExportIdentity.Hash(string.Create(CultureInfo.InvariantCulture,
            $"{ModelManifest.CurrentVersion}|{options.Experts}|{options.Dense}|{options.GroupSize}|{string.Join(',', options.Int4Layers)}|{calibration}|{options.ModelName}|{ExportIdentity.Files(folder)}"))[..16];
    }
}
