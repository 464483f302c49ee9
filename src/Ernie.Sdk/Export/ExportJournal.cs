using System.Text;

namespace Ernie.Sdk.Export;

/// <summary>
/// Which tensors an export has finished, in a file beside the weights: the first line says what is exported, every further one gives a checksum and a name. An export that was killed and is
/// started again keeps those tensors, after comparing their bytes with the checksums.
/// </summary>
internal sealed class ExportJournal : IDisposable
{
    public const string FileName = "export.journal";

    private readonly FileStream _file;
    private readonly Dictionary<string, string> _finished = new(StringComparer.Ordinal);

    private ExportJournal(FileStream file) => _file = file;

    /// <summary>SHA-256 of finished tensors by name.</summary>
    public IReadOnlyDictionary<string, string> Finished => _finished;

    /// <summary>Whether a folder holds the journal of an export of just this.</summary>
    public static bool IsOf(string folder, string identity)
    {
        try
        {
            using var reader = new StreamReader(Path.Combine(folder, FileName));
            return reader.ReadLine() == identity;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>Goes on with the journal of a folder, or begins one.</summary>
    public static ExportJournal Open(string folder, string identity)
    {
        var journal = new ExportJournal(new FileStream(Path.Combine(folder, FileName), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read));
        journal.Read(identity);
        return journal;
    }

    public void Add(string name, string sha256)
    {
        _finished[name] = sha256;
        WriteLine($"{sha256} {name}");
    }

    public void Dispose() => _file.Dispose();

    private void Read(string identity)
    {
        var bytes = new byte[_file.Length];
        _file.ReadExactly(bytes);
        // A line that was being written when the export was killed has no end.
        var lines = Encoding.UTF8.GetString(bytes, 0, Array.LastIndexOf(bytes, (byte)'\n') + 1).Split('\n');
        if (lines[0] == identity)
        {
            foreach (var line in lines[1..])
            {
                if (line.Split(' ') is [var sha256, var name]) _finished[name] = sha256;
            }
        }
        _file.SetLength(0);
        WriteLine(identity);
        foreach (var (name, sha256) in _finished) WriteLine($"{sha256} {name}");
    }

    private void WriteLine(string line)
    {
        try
        {
            _file.Write(Encoding.UTF8.GetBytes(line + "\n"));
            _file.Flush();
        }
        catch (IOException e)
        {
            throw ExportFolder.WritingFailed(_file.Name, e);
        }
    }
}
