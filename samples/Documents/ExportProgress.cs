using Ernie.Sdk;

namespace Samples.Documents;

/// <summary>One line on the terminal while a checkpoint is exported, which happens once.</summary>
internal sealed class ExportProgress : IProgress<ErnieProgress>
{
    private const int Width = 79;
    private TimeSpan _shown;
    private bool _any;

    public void Report(ErnieProgress value)
    {
        if (Console.IsErrorRedirected) return;
        var done = value.BytesDone >= value.BytesTotal;
        if (done && _any) Console.Error.Write($"\r{"",Width}\r");
        if (done || value.Elapsed - _shown < TimeSpan.FromMilliseconds(100)) return;
        (_shown, _any) = (value.Elapsed, true);
        var text = $"Exporting once: {100.0 * value.BytesDone / value.BytesTotal:F0} %, {value.Remaining:h\\:mm\\:ss} left";
        Console.Error.Write($"\r{text,-Width}");
    }
}
