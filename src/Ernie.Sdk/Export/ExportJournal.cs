using System.Globalization;
using System.Text;

namespace Ernie.Sdk.Export;

/// <summary>
/// Which tensors an export has finished, in a file beside the weights: the first line says what is exported, every further one gives checksum and name and, where weights were rounded, the errors
/// for the quality report. An export that was killed and is started again keeps those tensors, after comparing their bytes with the checksums.
/// </summary>
internal sealed class ExportJournal : IDisposable
{
    public const string FileName = "export.journal";

    private readonly FileStream _file;
    private readonly Dictionary<string, FinishedTensor> _finished = new(StringComparer.Ordinal);

    private ExportJournal(FileStream file) => _file = file;

    /// <summary>Finished tensors by name.</summary>
    public IReadOnlyDictionary<string, FinishedTensor> Finished => _finished;

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

    public void Add(string name, FinishedTensor tensor)
    {
        _finished[name] = tensor;
        WriteLine(Line(name, tensor));
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
                if (Parse(line) is var (name, tensor)) _finished[name] = tensor;
            }
        }
        _file.SetLength(0);
        WriteLine(identity);
        foreach (var (name, tensor) in _finished) WriteLine(Line(name, tensor));
    }

    private static string Line(string name, FinishedTensor tensor) => tensor.Error is { } e
        ? string.Create(CultureInfo.InvariantCulture, $"{tensor.Sha256} {name} {e.Error:R} {e.Norm:R} {e.WeightedError:R} {e.WeightedNorm:R}")
        : $"{tensor.Sha256} {name}";

    private static (string Name, FinishedTensor Tensor)? Parse(string line)
    {
        switch (line.Split(' '))
        {
            case [var sha256, var name]:
                return (name, new FinishedTensor(sha256, null));
            case [var sha256, var name, .. { Length: 4 } numbers]:
                var values = new double[4];
                for (var i = 0; i < values.Length; i++)
                {
                    if (!double.TryParse(numbers[i], NumberStyles.Float, CultureInfo.InvariantCulture, out values[i])) return null;
                }
                return (name, new FinishedTensor(sha256, new TensorError(values[0], values[1], values[2], values[3])));
            default:
                return null;
        }
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

/// <param name="Sha256">Of its bytes.</param>
/// <param name="Error">What rounding its weights cost; null where they were not rounded under calibration.</param>
internal readonly record struct FinishedTensor(string Sha256, TensorError? Error);
