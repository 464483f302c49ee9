namespace Ernie.Cli.Pulling;

/// <summary>A file as its repository lists it.</summary>
/// <param name="Path">Path inside the repository, with slashes.</param>
/// <param name="Size">Bytes, where the repository says.</param>
/// <param name="Sha256">Hash of the content in lower-case hexadecimal, where the repository says.</param>
/// <param name="GitBlob">Git's name of the content, likewise; hubs have it instead for files that are not in LFS.</param>
internal sealed record RepositoryFile(string Path, long? Size, string? Sha256 = null, string? GitBlob = null)
{
    /// <summary>What tells this content from any other; null where the repository gives no hash.</summary>
    public string? Hash => Sha256 ?? GitBlob;
}
