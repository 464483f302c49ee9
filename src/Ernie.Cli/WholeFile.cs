namespace Ernie.Cli;

/// <summary>A file that a command leaves behind: whole or not at all.</summary>
internal static class WholeFile
{
    /// <summary>Finds out whether a file can be written, before hours of work for it. Nothing is left, and what is there stays.</summary>
    /// <exception cref="IOException">It cannot; the message has the caller's name for it.</exception>
    public static void Check(string path)
    {
        if (IsWrittenInPlace(path)) return;
        Attempt(path, static temporary => File.WriteAllBytes(temporary, []), keep: false);
    }

    /// <summary>Writes a file, or leaves what was there.</summary>
    /// <exception cref="IOException">It cannot be written, likewise.</exception>
    public static void Write(string path, byte[] bytes)
    {
        if (IsWrittenInPlace(path)) File.WriteAllBytes(path, bytes);
        else Attempt(path, temporary => File.WriteAllBytes(temporary, bytes), keep: true);
    }

    /// <summary>Links, devices and pipes must not be replaced by a file, and an empty file has nothing to lose.</summary>
    private static bool IsWrittenInPlace(string path) => new FileInfo(path) is { Exists: true } file && (file.LinkTarget is not null || file.Length == 0);

    private static void Attempt(string path, Action<string> write, bool keep)
    {
        var target = Path.GetFullPath(path);
        if (Directory.Exists(target)) throw new IOException($"{path} is a folder; name a file.");
        if (Path.GetDirectoryName(target) is { } folder && !Directory.Exists(folder)) throw new IOException($"{path} cannot be written: there is no folder {folder}.");
        var temporary = target + ".new";
        try
        {
            try
            {
                write(temporary);
                if (keep) File.Move(temporary, target, overwrite: true);
            }
            finally
            {
                // Not there after it got its name.
                File.Delete(temporary);
            }
        }
        catch (FileNotFoundException e)
        {
            // What a system says whose folder takes no files, such as /proc.
            throw new IOException($"{path} cannot be written: its folder takes no files.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"{path} cannot be written: {e.Message.Replace(temporary, target, StringComparison.Ordinal)}", e);
        }
    }
}
