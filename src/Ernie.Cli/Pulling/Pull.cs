using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli.Pulling;

/// <summary>What a pull did.</summary>
/// <param name="Files">Files that are there now.</param>
/// <param name="Bytes">Their size.</param>
/// <param name="Downloaded">Files that were not there before.</param>
/// <param name="Checked">Files whose hash the repository gave, and which have it.</param>
internal sealed record PullResult(int Files, long Bytes, int Downloaded, int Checked);

/// <summary>Brings a checkpoint from a repository into a folder.</summary>
internal sealed class Pull(IRepository repository, string folder, FileSelection selection, int parallel, RetryPolicy retry, ProgressLine line)
{
    public async Task<PullResult> RunAsync(CancellationToken cancellationToken)
    {
        var progress = new PullProgress(line);
        var downloader = new Downloader(repository, folder, retry, progress);
        var all = await retry.RunAsync(() => repository.ListAsync(cancellationToken), cancellationToken).ConfigureAwait(false);
        if (all.Count == 0) throw new InvalidDataException($"{repository.Name} has no files.");
        var files = selection.WithoutShards(all);
        Check(files);
        var downloaded = 0;
        if (selection.NeedsIndex(all))
        {
            var index = all.First(static f => f.Path == ShardIndex.FileName);
            if (!files.Contains(index)) files.Add(index);
            if (await downloader.FetchAsync(index, cancellationToken).ConfigureAwait(false)) downloaded++;
            files.AddRange(selection.Shards(all, RepositoryPath.Below(folder, index.Path), repository.Name).Except(files));
            Check(files);
            files.Remove(index);
            files.Insert(0, index);
        }
        if (files.Count == 0) throw new InvalidDataException($"{repository.Name} has no file that --include and --exclude leave.");
        CheckRoom(files);
        progress.Expect(files.Sum(static f => f.Size ?? 0));

        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Exception? first = null;
        var waiting = files.Where((file, i) => i > 0 || file.Path != ShardIndex.FileName || downloaded == 0).OrderBy(static f => f.Size ?? 0).ToArray();
        try
        {
            // Small files first: what is wrong with a repository shows before the hours of its weights.
            await Parallel.ForEachAsync(waiting, new ParallelOptions { MaxDegreeOfParallelism = parallel, CancellationToken = stop.Token }, async (file, token) =>
            {
                try
                {
                    if (await downloader.FetchAsync(file, token).ConfigureAwait(false)) Interlocked.Increment(ref downloaded);
                }
                catch (Exception e) when (e is not OperationCanceledException)
                {
                    Interlocked.CompareExchange(ref first, e, null);
                    await stop.CancelAsync().ConfigureAwait(false);
                }
            }).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (first is not null)
        {
            // The others were stopped because one had failed.
        }
        if (first is not null) System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(first);
        return new PullResult(files.Count, files.Sum(file => new FileInfo(RepositoryPath.Below(folder, file.Path)).Length), downloaded, files.Count(static f => f.Hash is not null));
    }

    /// <summary>Before anything is written: all paths stay inside the folder, and no two are the same file on any system.</summary>
    private void Check(List<RepositoryFile> files)
    {
        var seen = new HashSet<string>(StringComparer.OrdinalIgnoreCase);
        foreach (var file in files)
        {
            if (!seen.Add(RepositoryPath.Below(folder, file.Path))) throw new InvalidDataException($"{repository.Name} lists {file.Path} twice, or with other capitals.");
        }
    }

    private void CheckRoom(List<RepositoryFile> files)
    {
        long needed = 0;
        foreach (var file in files)
        {
            var path = RepositoryPath.Below(folder, file.Path);
            var (whole, part) = (new FileInfo(path), new FileInfo(path + ".part"));
            if (whole.Exists && whole.Length == file.Size) continue;
            needed += Math.Max(0, (file.Size ?? 0) - (part.Exists ? part.Length : 0));
        }
        Directory.CreateDirectory(folder);
        long free;
        try
        {
            free = new DriveInfo(Path.GetFullPath(folder)).AvailableFreeSpace;
        }
        catch (Exception e) when (e is IOException or ArgumentException or UnauthorizedAccessException)
        {
            // A drive that does not say; writing to it will tell.
            return;
        }
        if (needed > free) throw new IOException($"{folder}: {Size.Text(needed)} are needed, {Size.Text(free)} are free. Free some, or name a folder on another disk.");
    }
}
