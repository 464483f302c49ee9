using System.IO.Enumeration;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli.Pulling;

/// <summary>Which files of a repository are wanted: by default what a checkpoint consists of, else what patterns say.</summary>
/// <param name="include">Patterns with * and ?; none means the default.</param>
/// <param name="exclude">Patterns of files to leave out.</param>
internal sealed class FileSelection(IReadOnlyList<string> include, IReadOnlyList<string> exclude)
{
    private const string Gates = "plas_attention_mlp_weight.safetensors";
    private static readonly string[] s_besides = ["*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "README.md"];

    /// <summary>Everything but weights that an index names.</summary>
    public List<RepositoryFile> WithoutShards(IReadOnlyList<RepositoryFile> files) =>
        [.. files.Where(file => IsWanted(file.Path, include.Count > 0 || IsBesides(file.Path) || (!HasIndex(files) && IsWeights(file.Path))))];

    /// <summary>Whether <see cref="Shards"/> has to be asked, once the index is there.</summary>
    public bool NeedsIndex(IReadOnlyList<RepositoryFile> files) => include.Count == 0 && HasIndex(files);

    /// <summary>The weights that the index names, and those of attention that no index names.</summary>
    /// <param name="files">All files of the repository.</param>
    /// <param name="index">Path of the index on this machine.</param>
    /// <param name="repository">How messages call the repository.</param>
    public List<RepositoryFile> Shards(IReadOnlyList<RepositoryFile> files, string index, string repository)
    {
        var named = ShardIndex.Parse(CheckpointFiles.ReadSmall(index, ShardIndex.MaxBytes), ShardIndex.FileName).Values.ToHashSet(StringComparer.Ordinal);
        var missing = named.Except(files.Select(static f => f.Path), StringComparer.Ordinal).Order(StringComparer.Ordinal).ToArray();
        if (missing.Length > 0) throw new InvalidDataException($"{repository}: {ShardIndex.FileName} names {string.Join(", ", missing.Take(5))}{(missing.Length > 5 ? $" and {missing.Length - 5} more" : "")}, which the repository lacks. Try another --revision.");
        return [.. files.Where(file => (named.Contains(file.Path) || file.Path == Gates) && IsWanted(file.Path, true))];
    }

    private bool IsWanted(string path, bool byDefault) =>
        byDefault && (include.Count == 0 || Matches(include, path)) && !Matches(exclude, path);

    private static bool HasIndex(IReadOnlyList<RepositoryFile> files) => files.Any(static f => f.Path == ShardIndex.FileName);

    private static bool IsBesides(string path) => !path.Contains('/') && !path.StartsWith('.') && Matches(s_besides, path);

    private static bool IsWeights(string path) => !path.Contains('/') && path.EndsWith(".safetensors", StringComparison.Ordinal);

    private static bool Matches(IReadOnlyList<string> patterns, string path) => patterns.Any(pattern => FileSystemName.MatchesSimpleExpression(pattern, path, ignoreCase: false));
}
