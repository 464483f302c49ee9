using System.Text;

namespace Ernie.Cli.Chatting;

/// <summary>
/// Answers go to standard output, everything about them to standard error. Reasoning is dimmed on a terminal with colours, and stands between marks on one without;
/// where standard output is no terminal it goes to standard error, and the answer stands alone.
/// What a model writes never controls the terminal.
/// </summary>
internal sealed class ChatScreen(CommandStreams streams, bool colours)
{
    private bool _isReasoning, _any;

    private TextWriter Thoughts => streams.OutIsTerminal ? streams.Out : streams.Error;

    /// <summary>Whether the terminal takes colours, and its user wants them (https://no-color.org).</summary>
    public static bool Colours(CommandStreams streams) =>
        streams.OutIsTerminal && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR")) && Environment.GetEnvironmentVariable("TERM") != "dumb"
        && (!OperatingSystem.IsWindows() || Environment.GetEnvironmentVariable("WT_SESSION") is not null);

    public void Reasoning(string text)
    {
        if (!_isReasoning) Thoughts.Write(colours ? "\e[2m" : "[reasoning]\n");
        _isReasoning = true;
        Thoughts.Write(Plain(text));
        Thoughts.Flush();
        _any |= streams.OutIsTerminal;
    }

    public void Answer(string text)
    {
        CloseReasoning(beforeAnswer: true);
        // A model often begins with the blank line that follows its reasoning.
        if (!_any) text = text.TrimStart('\n');
        if (text.Length > 0) Write(text);
    }

    /// <summary>Ends an answer, complete or not, with a line about it.</summary>
    public void End(string about)
    {
        CloseReasoning(beforeAnswer: false);
        if (_any) streams.Out.Write('\n');
        _any = false;
        streams.Out.Flush();
        Note(about);
    }

    public void Note(string text)
    {
        streams.Out.Flush();
        streams.Error.WriteLine(colours && streams.ErrorIsTerminal ? $"\e[2m{Plain(text)}\e[0m" : Plain(text));
    }

    public static string PromptText(bool isFirst) => isFirst ? "> " : "… ";

    public void Prompt(bool isFirst)
    {
        if (!streams.InIsTerminal) return;
        streams.Out.Flush();
        streams.Error.Write(PromptText(isFirst));
        streams.Error.Flush();
    }

    /// <summary>Text without control characters but line feeds and tabs.</summary>
    internal static string Plain(string text)
    {
        if (!text.Any(IsControl)) return text;
        var plain = new StringBuilder(text.Length);
        foreach (var c in text) plain.Append(IsControl(c) ? '\uFFFD' : c);
        return plain.ToString();

        static bool IsControl(char c) => char.IsControl(c) && c is not ('\n' or '\t');
    }

    private void CloseReasoning(bool beforeAnswer)
    {
        if (!_isReasoning) return;
        _isReasoning = false;
        if (!streams.OutIsTerminal)
        {
            streams.Error.WriteLine();
            return;
        }
        streams.Out.Write(colours ? "\e[0m\n" : beforeAnswer ? "\n[answer]\n" : "\n[no answer]");
        _any = !beforeAnswer && !colours;
    }

    private void Write(string text)
    {
        streams.Out.Write(Plain(text));
        streams.Out.Flush();
        _any = true;
    }
}
