namespace Ernie.Cli.Pulling;

/// <summary>
/// Brings files of a repository into a folder. A file has its name only when it is whole and its hash is right; until then it is NAME.part, and NAME.part.json says what it is part of.
/// </summary>
internal sealed class Downloader(IRepository repository, string folder, RetryPolicy retry, PullProgress progress)
{
    private const int BufferBytes = 1 << 20;

    /// <returns>Whether anything had to be downloaded.</returns>
    public async Task<bool> FetchAsync(RepositoryFile file, CancellationToken cancellationToken)
    {
        var target = RepositoryPath.Below(folder, file.Path);
        if (await IsThereAsync(target, file, cancellationToken).ConfigureAwait(false))
        {
            progress.Found(file.Size ?? 0);
            return false;
        }
        var (part, note) = (target + ".part", target + ".part.json");
        Directory.CreateDirectory(Path.GetDirectoryName(target)!);
        var stream = OpenPart(part);
        try
        {
            await using (stream.ConfigureAwait(false))
            {
                await CompleteAsync(stream, file, note, cancellationToken).ConfigureAwait(false);
                Writing(stream, static s => s.Flush(flushToDisk: true), "The same command begins this file anew.");
            }
        }
        catch (InvalidDataException)
        {
            // Of no use to the next attempt either.
            File.Delete(part);
            File.Delete(note);
            throw;
        }
        File.Move(part, target, overwrite: true);
        File.Delete(note);
        return true;
    }

    /// <summary>Whether a file is there already, whole; one that has another hash is not.</summary>
    private static async Task<bool> IsThereAsync(string target, RepositoryFile file, CancellationToken cancellationToken)
    {
        if (!File.Exists(target) || file.Size is not { } size || new FileInfo(target).Length != size) return false;
        if (file.Hash is null) return true;
        using var hash = new ContentHash(file);
        var stream = new FileStream(target, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0, FileOptions.SequentialScan);
        await using (stream.ConfigureAwait(false)) await hash.AppendAsync(stream, size, cancellationToken).ConfigureAwait(false);
        return hash.Difference(file.Sha256, file.GitBlob) is null;
    }

    private static FileStream OpenPart(string part)
    {
        try
        {
            return new FileStream(part, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 0, FileOptions.SequentialScan);
        }
        catch (IOException e) when (File.Exists(part))
        {
            throw new IOException($"{part} cannot be opened: {e.Message} Does another process download it?", e);
        }
    }

    /// <summary>Receives what is missing, in as many attempts as it takes, and checks the whole.</summary>
    private async Task CompleteAsync(FileStream stream, RepositoryFile file, string note, CancellationToken cancellationToken)
    {
        var state = PartState.Read(note);
        // Bytes of another version, or of nobody knows which.
        if (state is null || state.Hash != file.Hash || (file.Hash is null && state.Validator is null) || stream.Length > file.Size) Restart();
        var resumed = stream.Length > 0;
        progress.Found(stream.Length);
        var beginsAnew = false;
        var hash = new ContentHash(file);
        try
        {
            var (best, failures) = (stream.Length, 0);
            while (true)
            {
                try
                {
                    if (stream.Length != file.Size || (stream.Length == 0 && file.Size != 0)) await ReceiveAsync().ConfigureAwait(false);
                    else if (hash.Position < stream.Length) await hash.AppendAsync(stream, stream.Length, cancellationToken).ConfigureAwait(false);
                    if (hash.Difference(file.Sha256 ?? state?.Sha256, file.GitBlob) is not { } difference) return;
                    if (!resumed) throw new InvalidDataException($"{Name(file)} arrived damaged and was deleted: its {difference}. Run the same command again; if it says the same, do not trust this source.");
                    // The old part may be to blame: once more from the beginning.
                    resumed = false;
                    Discard();
                    best = 0;
                }
                catch (InterruptedTransferException e)
                {
                    failures = stream.Length > best ? 1 : failures + 1;
                    best = Math.Max(best, stream.Length);
                    await retry.PauseAsync(failures, e, Outcome(), cancellationToken).ConfigureAwait(false);
                }
            }
        }
        finally
        {
            hash.Dispose();
        }

        // Promises nothing that the next attempt cannot keep.
        string Outcome() => stream.Length == 0 ? "Nothing of it has arrived; the same command tries again."
            : beginsAnew ? "This server sends files from the beginning only: the same command begins this one anew."
            : file.Hash is null && state?.Validator is null ? "This server gives nothing to resume by (no strong ETag, no date of change): the same command begins this file anew."
            : "What has arrived is kept; the same command goes on from there.";

        void Restart()
        {
            stream.SetLength(0);
            state = null;
        }

        void Discard()
        {
            progress.Found(-stream.Length);
            Restart();
            hash.Dispose();
            hash = new ContentHash(file);
        }

        async Task ReceiveAsync()
        {
            // Without a hash, only the server can tell that its file is still the one.
            if (stream.Length > 0 && file.Hash is null && state?.Validator is null) Discard();
            using var opened = await repository.OpenAsync(file, stream.Length, state?.Validator, cancellationToken).ConfigureAwait(false);
            if (opened.Offset != stream.Length)
            {
                // The same version, and yet all of it.
                beginsAnew = opened.Validator == state?.Validator;
                Discard();
            }
            var length = file.Size ?? opened.Length;
            if (opened.Length is { } said && said != length) throw Lie($"the server announces {said} bytes, the repository lists {length}");
            state = new PartState(file.Hash, opened.Validator, opened.Sha256);
            state.Write(note);
            if (hash.Position != stream.Length) await hash.AppendAsync(stream, stream.Length, cancellationToken).ConfigureAwait(false);
            stream.Position = stream.Length;
            var buffer = new byte[BufferBytes];
            while (await HubClient.ReadAsync(opened.Content, buffer, Name(file), cancellationToken).ConfigureAwait(false) is > 0 and var count)
            {
                if (stream.Length + count > length) throw Lie($"more bytes come than the {length} announced");
                Writing(stream, s => s.Write(buffer, 0, count), Outcome());
                hash.Append(buffer.AsSpan(0, count));
                progress.Receive(count);
            }
            if (stream.Length < length) throw new InterruptedTransferException($"{Name(file)}: the connection ended after {stream.Length} of {length} bytes.");
        }

        InvalidDataException Lie(string what) => new($"{Name(file)}: {what}. What had arrived was deleted. Try another --revision, or another server.");
    }

    /// <summary>A web folder's name ends with a slash.</summary>
    private string Name(RepositoryFile file) => $"{repository.Name.TrimEnd('/')}/{file.Path}";

    /// <summary>A disk that is full is no interruption, and is said to be one.</summary>
    private static void Writing(FileStream stream, Action<FileStream> write, string outcome)
    {
        try
        {
            write(stream);
        }
        catch (IOException e)
        {
            throw new IOException($"{stream.Name} cannot be written: {e.Message} {outcome}", e);
        }
    }
}
