using System.Globalization;
using System.Text;

namespace Ernie.Cli.Chatting;

/// <summary>
/// A line at a terminal of Unix, which by itself knows neither the lines before nor arrow keys: arrows, Home, End, Backspace and Delete; Ctrl+A, E, U (clears the line), K, W; up and down for what was entered before.
/// Windows' own terminal does as much.
/// </summary>
/// <param name="readKey">Waits for a key.</param>
/// <param name="screen">The terminal.</param>
/// <param name="width">Its columns.</param>
internal sealed class LineEditor(Func<ConsoleKeyInfo> readKey, TextWriter screen, Func<int> width)
{
    private readonly List<string> _history = [];
    private readonly StringBuilder _text = new();
    private string _prompt = "";
    private int _cursor;
    /// <summary>Row of the terminal's cursor, counted from the prompt's.</summary>
    private int _row;

    /// <param name="prompt">What stands before the text; it is on the screen already.</param>
    /// <returns>Null where the input ends (Ctrl+D).</returns>
    public string? ReadLine(string prompt)
    {
        (_prompt, _cursor, _row) = (prompt, 0, 0);
        _text.Clear();
        var (at, unsent) = (_history.Count, "");
        while (true)
        {
            var key = readKey();
            switch (Name(key))
            {
                case ConsoleKey.Enter:
                    MoveTo(_text.Length);
                    screen.Write("\r\n");
                    screen.Flush();
                    var line = _text.ToString();
                    if (line.Length > 0 && (_history.Count == 0 || _history[^1] != line)) _history.Add(line);
                    return line;
                case ConsoleKey.D when key.KeyChar == 4:
                    if (_text.Length == 0) return null;
                    break;
                case ConsoleKey.UpArrow when at > 0:
                    if (at == _history.Count) unsent = _text.ToString();
                    Replace(_history[--at]);
                    break;
                case ConsoleKey.DownArrow when at < _history.Count:
                    Replace(++at == _history.Count ? unsent : _history[at]);
                    break;
                case ConsoleKey.LeftArrow: MoveTo(Before(_cursor)); break;
                case ConsoleKey.RightArrow: MoveTo(After(_cursor)); break;
                case ConsoleKey.Home: MoveTo(0); break;
                case ConsoleKey.End: MoveTo(_text.Length); break;
                case ConsoleKey.Backspace: Remove(Before(_cursor), _cursor); break;
                case ConsoleKey.Delete: Remove(_cursor, After(_cursor)); break;
                case ConsoleKey.U: Remove(0, _text.Length); break;
                case ConsoleKey.K: Remove(_cursor, _text.Length); break;
                case ConsoleKey.W: Remove(WordBefore(), _cursor); break;
                case ConsoleKey.None when key.KeyChar == '\t' || !char.IsControl(key.KeyChar): Insert(key.KeyChar); break;
            }
            screen.Flush();
        }
    }

    /// <summary>Keys that do something; what is typed has none.</summary>
    private static ConsoleKey Name(ConsoleKeyInfo key) => key.KeyChar switch
    {
        '\r' or '\n' => ConsoleKey.Enter,
        '\b' or (char)127 => ConsoleKey.Backspace,
        (char)1 => ConsoleKey.Home,
        (char)4 => ConsoleKey.D,
        (char)5 => ConsoleKey.End,
        (char)11 => ConsoleKey.K,
        (char)14 => ConsoleKey.DownArrow,
        (char)16 => ConsoleKey.UpArrow,
        (char)21 => ConsoleKey.U,
        (char)23 => ConsoleKey.W,
        '\0' when key.Key is ConsoleKey.UpArrow or ConsoleKey.DownArrow or ConsoleKey.LeftArrow or ConsoleKey.RightArrow or ConsoleKey.Home or ConsoleKey.End or ConsoleKey.Delete => key.Key,
        '\0' => ConsoleKey.NoName,
        _ => ConsoleKey.None,
    };

    private void Insert(char c)
    {
        _text.Insert(_cursor++, c);
        // Half a character is not drawn.
        if (char.IsHighSurrogate(c)) return;
        if (_cursor < _text.Length)
        {
            Draw();
            return;
        }
        // Pasted text comes fast; at the end nothing else changes.
        screen.Write(char.IsLowSurrogate(c) ? _text.ToString(_text.Length - 2, 2) : c == '\t' ? " " : c.ToString());
        _row = Position(_text.Length).Row;
    }

    private void Remove(int from, int to)
    {
        if (from == to) return;
        _text.Remove(from, to - from);
        _cursor = from;
        Draw();
    }

    private void Replace(string text)
    {
        _text.Clear().Append(text);
        _cursor = text.Length;
        Draw();
    }

    private void MoveTo(int cursor)
    {
        if (cursor == _cursor) return;
        _cursor = cursor;
        Draw();
    }

    private void Draw()
    {
        if (_row > 0) screen.Write($"\e[{_row}A");
        screen.Write($"\r\e[J{_prompt}{_text.ToString().Replace('\t', ' ')}");
        var (endRow, endColumn) = Position(_text.Length);
        // A terminal wraps when the next character comes; the cursor has to be there before.
        if (endColumn == width())
        {
            screen.Write("\r\n");
            (endRow, endColumn) = (endRow + 1, 0);
        }
        var (row, column) = Position(_cursor);
        if (column == width()) (row, column) = (row + 1, 0);
        if (row < endRow) screen.Write($"\e[{endRow - row}A");
        if (column != endColumn || row != endRow) screen.Write(column > 0 ? $"\r\e[{column}C" : "\r");
        _row = row;
    }

    /// <summary>Where the cursor stands after so much of the text has been written; in the column behind the last one where it has not wrapped yet.</summary>
    private (int Row, int Column) Position(int length)
    {
        var (columns, row, column) = (Math.Max(4, width()), 0, _prompt.Length);
        foreach (var rune in _text.ToString(0, length).EnumerateRunes())
        {
            var cells = Cells(rune);
            if (column + cells > columns) (row, column) = (row + 1, 0);
            column += cells;
        }
        return (row, column);
    }

    /// <summary>Columns of a character: two of those that East Asian writing and pictures take.</summary>
    internal static int Cells(Rune rune) => rune.Value switch
    {
        '\t' => 1,
        >= 0x1100 and <= 0x115F or >= 0x2E80 and <= 0x303E or >= 0x3041 and <= 0x4DBF or >= 0x4E00 and <= 0xA4CF or >= 0xAC00 and <= 0xD7A3 or >= 0xF900 and <= 0xFAFF or >= 0xFE30 and <= 0xFE6F
            or >= 0xFF00 and <= 0xFF60 or >= 0xFFE0 and <= 0xFFE6 or >= 0x1F300 and <= 0x1F64F or >= 0x1F680 and <= 0x1F6FF or >= 0x1F900 and <= 0x1F9FF or >= 0x20000 and <= 0x3FFFD => 2,
        _ => Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark or UnicodeCategory.Format ? 0 : 1,
    };

    private int Before(int at) => at == 0 ? 0 : at > 1 && char.IsSurrogatePair(_text[at - 2], _text[at - 1]) ? at - 2 : at - 1;

    private int After(int at) => at == _text.Length ? at : at + 1 < _text.Length && char.IsSurrogatePair(_text[at], _text[at + 1]) ? at + 2 : at + 1;

    private int WordBefore()
    {
        var at = _cursor;
        while (at > 0 && char.IsWhiteSpace(_text[at - 1])) at--;
        while (at > 0 && !char.IsWhiteSpace(_text[at - 1])) at--;
        return at;
    }
}
