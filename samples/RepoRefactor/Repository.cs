using System.Text;

namespace RepoRefactor;

/// <summary>A text file: lines with their endings, so that a diff can give them back byte for byte.</summary>
internal sealed record SourceFile(string Path, IReadOnlyList<string> Lines)
{
    public string Text => string.Concat(Lines);

    public static SourceFile Of(string path, string text)
    {
        var lines = new List<string>();
        for (var start = 0; start < text.Length;)
        {
            var end = text.IndexOf('\n', start) is >= 0 and var feed ? feed + 1 : text.Length;
            lines.Add(text[start..end]);
            start = end;
        }
        return new SourceFile(path, lines);
    }
}

/// <summary>The text files of a folder, and the text in which the model gets them.</summary>
internal sealed record Repository(string Root, string Text, IReadOnlyList<SourceFile> Files, int LeftOut)
{
    private const int LargestFile = 1 << 20;

    /// <summary>Reads what Git tracks in the folder, or all files where it is no work tree: in order of their paths, as many as fit.</summary>
    public static Repository Read(string folder, int room, Func<SourceFile, string> show, Func<string, int> count)
    {
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"--repo takes a folder; there is no folder {Path.GetFullPath(folder)}.");
        var root = Path.GetFullPath(folder);
        var files = new List<SourceFile>();
        var leftOut = 0;
        foreach (var path in (Git.Files(root) ?? Enumerate(root)).Order(StringComparer.Ordinal))
        {
            if (ReadText(Path.Combine(root, path)) is not { } text) continue;
            var file = SourceFile.Of(path, text);
            var tokens = count(show(file));
            if (tokens > room)
            {
                leftOut++;
                continue;
            }
            room -= tokens;
            files.Add(file);
        }
        if (files.Count == 0) throw new InvalidDataException($"{root} has no text file that fits. Give more tokens: --tokens N.");
        return new Repository(root, string.Concat(files.Select(show)).TrimEnd('\n'), files, leftOut);
    }

    /// <summary>A file under its name, its lines numbered to be named by.</summary>
    public static string Numbered(SourceFile file) => $"=== {file.Path}\n{string.Concat(file.Lines.Select(static (line, i) => $"{i + 1}: {line.TrimEnd('\r', '\n')}\n"))}\n";

    private static IEnumerable<string> Enumerate(string root) =>
        Directory.EnumerateFiles(root, "*", new EnumerationOptions { RecurseSubdirectories = true }).Select(file => Path.GetRelativePath(root, file).Replace('\\', '/')).Where(static path => !path.Split('/').Any(static part => part is ".git" or "bin" or "obj"));

    /// <summary>Null for what is no text: other bytes than UTF-8, or a NUL.</summary>
    private static string? ReadText(string path)
    {
        var info = new FileInfo(path);
        // Git lists links too, and files that are gone from the work tree.
        if (!info.Exists || info.LinkTarget is not null || info.Length is 0 or > LargestFile) return null;
        try
        {
            var text = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(File.ReadAllBytes(path));
            return text.Contains('\0') ? null : text;
        }
        catch (DecoderFallbackException)
        {
            return null;
        }
    }
}
