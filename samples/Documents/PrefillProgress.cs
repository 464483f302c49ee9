using Ernie.Sdk;

namespace Samples.Documents;

/// <summary>How far a prompt is: a bar on a terminal, else a line for each quarter. Reports come from the engine's thread.</summary>
internal sealed class PrefillProgress : IProgress<ErniePrefillProgress>
{
    private const int Bar = 30, Width = 79, Worth = 256;
    private readonly Lock _lock = new();
    private int _shown;
    private bool _ended;

    public void Report(ErniePrefillProgress value)
    {
        lock (_lock)
        {
            // What follows a long reused beginning takes no time to speak of.
            if (_ended || value.PromptTokens - value.CachedTokens < Worth) return;
            var parts = Console.IsErrorRedirected ? 4 : 100;
            var part = (int)((long)value.ComputedTokens * parts / value.PromptTokens);
            if (part <= _shown) return;
            _shown = part;
            var text = $"prefill {100 * part / parts,3} %, {value.ComputedTokens:N0} of {value.PromptTokens:N0} tokens";
            if (Console.IsErrorRedirected) Console.Error.WriteLine($"  {text}");
            else Console.Error.Write($"\r  {new string('#', Bar * part / parts).PadRight(Bar, '.')} {text}");
        }
    }

    /// <summary>Takes the bar away, before the answer's first token.</summary>
    public void Clear()
    {
        lock (_lock)
        {
            _ended = true;
            if (!Console.IsErrorRedirected) Console.Error.Write($"\r{"",Width}\r");
        }
    }
}
