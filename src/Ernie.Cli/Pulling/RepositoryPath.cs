namespace Ernie.Cli.Pulling;

/// <summary>Paths that a repository gives, made paths below a folder. Whatever a server says, nothing leaves that folder.</summary>
internal static class RepositoryPath
{
    private const int LongestName = 240;
    private static readonly HashSet<string> s_devices = new(["CON", "PRN", "AUX", "NUL", .. Enumerable.Range(0, 10).SelectMany(static n => new[] { $"COM{n}", $"LPT{n}" })], StringComparer.OrdinalIgnoreCase);

    /// <summary>The file below <paramref name="folder"/> that a path of the repository stands for.</summary>
    /// <exception cref="InvalidDataException">The path leads elsewhere, or cannot be a file name on every system.</exception>
    public static string Below(string folder, string path)
    {
        if (path.Length is 0 or > 1024 || !path.Split('/').All(IsPlainName)) throw Refused(path);
        var root = Path.GetFullPath(folder);
        var full = Path.GetFullPath(Path.Combine(root, path));
        if (!full.StartsWith(Path.EndsInDirectorySeparator(root) ? root : root + Path.DirectorySeparatorChar, StringComparison.Ordinal)) throw Refused(path);
        return full;
    }

    private static bool IsPlainName(string name) =>
        name.Length is > 0 and <= LongestName && name is not ("." or "..") && !name.EndsWith('.') && !name.EndsWith(' ') && !s_devices.Contains(name.Split('.')[0].TrimEnd())
        && !name.Any(static c => c is '\\' or ':' or '*' or '?' or '"' or '<' or '>' or '|' || char.IsControl(c));

    private static InvalidDataException Refused(string path)
    {
        var shown = new string([.. path.Take(200).Select(static c => char.IsControl(c) ? '?' : c)]);
        return new InvalidDataException($"The repository lists '{shown}', which is no path of a file inside it. Nothing was downloaded; do not trust this repository.");
    }
}
