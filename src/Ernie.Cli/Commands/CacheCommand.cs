using System.CommandLine;
using System.Globalization;
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
        var clear = new DocumentedCommand("clear", "Removes exports from the cache.", "Checkpoints are left alone: the next load of one exports it again. What an export is writing just now is kept.", "ernie cache clear --older-than 30", "ernie cache clear") { days };
        clear.SetAction(async (result, cancellationToken) =>
        {
            var before = DateTime.UtcNow - TimeSpan.FromDays(result.GetValue(days) ?? 0);
            var (removed, bytes, code) = (0, 0L, ExitCode.Success);
            foreach (var entry in CachedExport.All(Folder(result.GetValue(cache))).Where(entry => result.GetValue(days) is null || entry.LastUse < before))
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
        var command = new DocumentedCommand("cache", "Lists the exports of checkpoints that chat, serve and others were given, and removes them.",
            "A command that is given a checkpoint exports it once and finds the export again by the checkpoint's content, wherever the folder lies. 'ernie export' writes to folders of your own, which are not listed here.",
            "ernie cache", "ernie cache clear --older-than 30") { cache, clear };
        command.SetAction(async (result, cancellationToken) =>
        {
            var folder = Folder(result.GetValue(cache));
            var entries = CachedExport.All(folder);
            await streams.Out.WriteLineAsync($"{folder}: {Exports(entries.Count)}, {Size.Text(entries.Sum(static e => e.Bytes))}").ConfigureAwait(false);
            foreach (var entry in entries)
            {
                var of = !entry.IsComplete ? "not finished" : entry.Checkpoint is { } checkpoint ? $"of {checkpoint}" : "of a checkpoint that is not known";
                await streams.Out.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{Size.Text(entry.Bytes),10}  used {entry.LastUse.ToLocalTime():yyyy-MM-dd HH:mm}  {Path.GetFileName(entry.Folder)}  {of}")).ConfigureAwait(false);
            }
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>Without a home directory .NET gives an empty path, which leaves a relative one.</summary>
    public static string Folder(string? option) => Path.GetFullPath(option ?? ExportCache.DefaultFolder);

    public static string Exports(int count) => string.Create(CultureInfo.InvariantCulture, $"{count} export{(count == 1 ? "" : "s")}");
}
