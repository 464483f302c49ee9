namespace DesktopChat;

/// <summary>A folder as the window lists it, where a page cannot look at the disk itself.</summary>
internal sealed record ModelFolder(string Path, string? Parent, bool IsModel, IEnumerable<ModelFolder.Entry> Folders)
{
    internal sealed record Entry(string Name, string Path, bool IsModel);

    public static ModelFolder List(string path)
    {
        var folder = new DirectoryInfo(path);
        var folders = folder.EnumerateDirectories().Where(static sub => !sub.Attributes.HasFlag(FileAttributes.Hidden)).OrderBy(static sub => sub.Name, StringComparer.OrdinalIgnoreCase);
        return new ModelFolder(folder.FullName, folder.Parent?.FullName, Holds(folder.FullName), [.. folders.Select(static sub => new Entry(sub.Name, sub.FullName, Holds(sub.FullName)))]);
    }

    /// <summary>Whether there is a checkpoint or an exported model in a folder, by the names of its files.</summary>
    private static bool Holds(string folder)
    {
        try
        {
            return File.Exists(System.IO.Path.Combine(folder, "model.onnx")) || (File.Exists(System.IO.Path.Combine(folder, "config.json")) && Directory.EnumerateFiles(folder, "*.safetensors").Any());
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }
}
