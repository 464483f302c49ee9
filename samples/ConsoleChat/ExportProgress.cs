using Ernie.Sdk;

namespace ConsoleChat;

/// <summary>One line on the terminal while a checkpoint is exported. Reports come from the exporting thread.</summary>
internal sealed class ExportProgress : IProgress<ErnieProgress>
{
    private const int Width = 70;
    private TimeSpan _shown;
    private bool _any;

    public void Report(ErnieProgress value)
    {
        var done = value.BytesDone >= value.BytesTotal;
        if (done && _any && !Console.IsErrorRedirected) Console.Error.Write($"\r{"",Width}\r");
        // In a file a line cannot be drawn over: the first one says what takes so long, more follow now and then.
        if (done || (_any && value.Elapsed - _shown < (Console.IsErrorRedirected ? TimeSpan.FromSeconds(10) : TimeSpan.FromMilliseconds(100)))) return;
        (_shown, _any) = (value.Elapsed, true);
        var text = $"Exporting once: {100.0 * value.BytesDone / value.BytesTotal:F0} % at {value.BytesPerSecond / 1e6:F1} MB/s, {value.Remaining:h\\:mm\\:ss} left";
        if (Console.IsErrorRedirected) Console.Error.WriteLine(text);
        else Console.Error.Write($"\r{text,-Width}");
    }
}
