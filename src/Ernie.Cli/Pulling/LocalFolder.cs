using System.Globalization;

namespace Ernie.Cli.Pulling;

/// <summary>A folder on this machine, or on a drive that it sees.</summary>
internal sealed class LocalFolder(string folder) : IRepository
{
    private readonly string _root = Path.GetFullPath(folder);

    public string Name => folder;

    public Task<IReadOnlyList<RepositoryFile>> ListAsync(CancellationToken cancellationToken) => Task.FromResult<IReadOnlyList<RepositoryFile>>(
    [
        .. new DirectoryInfo(_root).EnumerateFiles("*", SearchOption.AllDirectories).Select(file => new RepositoryFile(Path.GetRelativePath(_root, file.FullName).Replace(Path.DirectorySeparatorChar, '/'), Length(file))),
    ]);

    public Task<OpenedFile> OpenAsync(RepositoryFile file, long offset, string? validator, CancellationToken cancellationToken)
    {
        var path = RepositoryPath.Below(_root, file.Path);
        var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0, FileOptions.SequentialScan | FileOptions.Asynchronous);
        var version = string.Create(CultureInfo.InvariantCulture, $"{File.GetLastWriteTimeUtc(path).Ticks}-{stream.Length}");
        if (version != validator || offset > stream.Length) offset = 0;
        stream.Position = offset;
        return Task.FromResult(new OpenedFile(stream, offset, stream.Length, version, null));
    }

    public void Dispose()
    {
    }

    /// <summary>A link, as caches of hubs consist of, has the length of what it leads to.</summary>
    private static long Length(FileInfo file) => file.ResolveLinkTarget(returnFinalTarget: true) is FileInfo target ? target.Length : file.Length;
}
