namespace Ernie.Sdk.Tests.Support;

/// <summary>A calibration file of few random token ids: exports under it take no longer than others.</summary>
internal sealed class CalibrationIds : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public CalibrationIds(int vocabulary, int sequences = 6, int length = 80, int seed = 1)
    {
        var random = new Random(seed);
        File.WriteAllLines(Path, Enumerable.Range(0, sequences).Select(_ => $$"""{"ids": [{{string.Join(", ", Enumerable.Range(0, length).Select(_ => random.Next(vocabulary)))}}]}"""));
    }

    public string Path => _folder.File("ids.jsonl");

    public void Dispose() => _folder.Dispose();
}
