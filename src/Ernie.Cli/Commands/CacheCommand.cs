using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie cache</c>: the exports of checkpoints that were loaded directly.</summary>
internal static class CacheCommand
{
    public static Command Create(CommandStreams streams)
    {
        var cache = CommonOptions.Cache();
        cache.Recursive = true;
        var days = new Option<double?>("--older-than") { Description = "Only those that were not loaded for so many days. [default: all]", HelpName = "DAYS" };
        days.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && double.TryParse(result.Tokens[0].Value, CultureInfo.InvariantCulture, out var value) && !(value is >= 0 and <= 36_500)) result.AddError("--older-than must lie between 0 and 36500.");
        });
        var outdated = new Option<bool>("--outdated") { Description = "Only those of a format that this version does not load any more." };
        var clear = new DocumentedCommand("clear", "Removes exports from the cache.", "Checkpoints are left alone: the next load of one exports it again. What an export is writing just now is kept.", "ernie cache clear --older-than 30", "ernie cache clear --outdated", "ernie cache clear") { days, outdated };
        clear.SetAction(async (result, cancellationToken) =>
        {
            var before = DateTime.UtcNow - TimeSpan.FromDays(result.GetValue(days) ?? 0);
            var (removed, bytes, code) = (0, 0L, ExitCode.Success);
            foreach (var entry in CachedExport.All(Folder(result.GetValue(cache))).Where(entry => (result.GetValue(days) is null || entry.LastUse < before) && (!result.GetValue(outdated) || entry.IsOutdated)))
            {
                cancellationToken.ThrowIfCancellationRequested();
                try
                {
                    entry.Delete();
                    (removed, bytes) = (removed + 1, bytes + entry.Bytes);
                    await streams.Out.WriteLineAsync($"removed {entry.Folder}").ConfigureAwait(false);
                }
                catch (Exception e) when (e is IOException or UnauthorizedAccessException)
                {
                    code = ExitCode.BadInput;
                    await streams.Error.WriteLineAsync($"ernie: {entry.Folder} is kept: {ErrorLine.Of(e)}").ConfigureAwait(false);
                }
            }
            await streams.Out.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{Exports(removed)} removed, {Size.Text(bytes)}.")).ConfigureAwait(false);
            return code;
        });
        var json = new Option<bool>("--json") { Description = "JSON lines, one an export, instead of a table." };
        var command = new DocumentedCommand("cache", "Lists the exports of checkpoints that chat, serve and others were given, and removes them.",
            "A command that is given a checkpoint exports it once and finds the export again by the checkpoint's content, wherever the folder lies. 'ernie export' writes to folders of your own, which are not listed here. Names of JSON keys: folder, bytes, used, state (fine, outdated, newer, damaged or unfinished), format, checkpoint.",
            "ernie cache", "ernie cache clear --older-than 30") { cache, json, clear };
        command.SetAction(async (result, cancellationToken) =>
        {
            var folder = Folder(result.GetValue(cache));
            var entries = CachedExport.All(folder);
            if (result.GetValue(json))
            {
                WriteJson(streams.Out, entries);
                return ExitCode.Success;
            }
            await streams.Out.WriteLineAsync($"{folder}: {Exports(entries.Count)}, {Size.Text(entries.Sum(static e => e.Bytes))}").ConfigureAwait(false);
            foreach (var entry in entries)
                await streams.Out.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{Size.Text(entry.Bytes),10}  used {entry.LastUse.ToLocalTime():yyyy-MM-dd HH:mm}  {Path.GetFileName(entry.Folder)}  {Describe(entry)}")).ConfigureAwait(false);
            if (Outdated(entries) is { } text) await streams.Out.WriteLineAsync($"{text} Remove with: {Clear(folder)}").ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>What exports cost that no load finds any more; null where there are none.</summary>
    public static string? Outdated(IReadOnlyList<CachedExport> entries)
    {
        var outdated = entries.Where(static entry => entry.IsOutdated).ToList();
        return outdated.Count == 0 ? null : string.Create(CultureInfo.InvariantCulture,
            $"{Exports(outdated.Count)} of {Size.Text(outdated.Sum(static entry => entry.Bytes))} {(outdated.Count == 1 ? "has a format" : "have formats")} that this version, which reads format {ModelManifest.CurrentVersion}, does not load.");
    }

    /// <summary>Removes those, as it is typed.</summary>
    public static string Clear(string folder) => $"ernie cache clear --outdated{(folder == Folder(null) ? "" : $" --cache {(folder.Contains(' ', StringComparison.Ordinal) ? $"\"{folder}\"" : folder)}")}";

    private static string Describe(CachedExport entry) =>
        !entry.IsComplete ? "not finished" : $"{(entry.Checkpoint is { } checkpoint ? $"of {checkpoint}" : "of a checkpoint that is not known")}{State(entry).Note}";

    /// <summary>For programs, and what is said of it to people.</summary>
    private static (string Name, string Note) State(CachedExport entry) => entry switch
    {
        { IsComplete: false } => ("unfinished", ""),
        { IsOutdated: true } => ("outdated", string.Create(CultureInfo.InvariantCulture, $"; not loaded any more: format {entry.Format}")),
        { Format: null } => ("damaged", "; damaged: it says no format"),
        { Format: > ModelManifest.CurrentVersion } => ("newer", string.Create(CultureInfo.InvariantCulture, $"; not loaded by this version: format {entry.Format}")),
        _ => ("fine", ""),
    };

    private static void WriteJson(TextWriter output, IReadOnlyList<CachedExport> entries)
    {
        using var writer = new JsonLineWriter(output, null, flushEachLine: false);
        foreach (var entry in entries)
        {
            writer.Write(json =>
            {
                json.WriteString("folder", entry.Folder);
                json.WriteNumber("bytes", entry.Bytes);
                json.WriteString("used", entry.LastUse);
                json.WriteString("state", State(entry).Name);
                if (entry.Format is { } format) json.WriteNumber("format", format);
                else json.WriteNull("format");
                json.WriteString("checkpoint", entry.Checkpoint);
            });
        }
    }

    /// <summary>Without a home directory .NET gives an empty path, which leaves a relative one.</summary>
    public static string Folder(string? option) => Path.GetFullPath(option ?? ExportCache.DefaultFolder);

    public static string Exports(int count) => string.Create(CultureInfo.InvariantCulture, $"{count} export{(count == 1 ? "" : "s")}");
}
