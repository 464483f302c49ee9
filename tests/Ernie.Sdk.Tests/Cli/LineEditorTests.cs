using System.Text;
using Ernie.Cli.Chatting;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Lines edited key by key, and what a terminal shows of them.</summary>
public sealed class LineEditorTests
{
    private const string Up = "↑", Down = "↓", Left = "←", Right = "→", Delete = "⌦";

    [Theory]
    [InlineData("abc\r", "abc")]
    [InlineData("abc\u0015x\r", "x")]
    [InlineData("abc\u007f\u007fx\r", "ax")]
    [InlineData("abc" + Left + Left + "x\r", "axbc")]
    [InlineData("abc\u0001" + Delete + Right + "x\u0005y\r", "bxcy")]
    [InlineData("one two  \u0017x\r", "one x")]
    [InlineData("abc" + Left + "\u000b\r", "ab")]
    [InlineData("中文😀" + "\u007f" + Left + "x\r", "中x文")]
    [InlineData("a\tb\r", "a\tb")]
    [InlineData(Up + Down + "a\u0003\r", "a")]
    public void Keys_EditTheLine(string keys, string expected) => Assert.Equal([expected], Run(keys, 80).Lines);

    [Fact]
    public void History_GoesBackAndForth_AndKeepsWhatWasNotSent()
    {
        Assert.Equal(["one", "two", "two", "one", "two!", "new"], Run($"one\rtwo\r{Up}\r{Up}{Up}\rtwo!\rnew{Up}{Down}\r", 80).Lines);
        Assert.Equal(["one"], Run("one\r\u0004", 80).Lines);
    }

    [Theory]
    [InlineData(80)]
    [InlineData(10)]
    [InlineData(7)]
    public void TheTerminal_ShowsTheLine_WhereverItWraps(int width)
    {
        var random = new Random(width);
        string[] keys = ["a", "b", " ", "中", "x", Left, Right, "\u007f", Delete, "\u0001", "\u0005", "c", "文", "d"];
        for (var run = 0; run < 300; run++)
        {
            var typed = string.Concat(Enumerable.Range(0, random.Next(1, 40)).Select(_ => keys[random.Next(keys.Length)]));
            var (lines, screen) = Run(typed + "\r", width);
            Assert.Equal("> " + lines[0], screen.Text());
        }
    }

    private static (List<string> Lines, Screen Screen) Run(string keys, int width)
    {
        var screen = new Screen(width);
        var at = 0;
        var editor = new LineEditor(() => Key(keys[at++]), screen, () => width);
        var lines = new List<string>();
        while (at < keys.Length)
        {
            screen.Write("> ");
            if (editor.ReadLine("> ") is not { } line) break;
            lines.Add(line);
        }
        return (lines, screen);
    }

    private static ConsoleKeyInfo Key(char c) => $"{c}" switch
    {
        Up => new('\0', ConsoleKey.UpArrow, false, false, false),
        Down => new('\0', ConsoleKey.DownArrow, false, false, false),
        Left => new('\0', ConsoleKey.LeftArrow, false, false, false),
        Right => new('\0', ConsoleKey.RightArrow, false, false, false),
        Delete => new('\0', ConsoleKey.Delete, false, false, false),
        _ => new(c, ConsoleKey.None, false, false, false),
    };

    /// <summary>As much of a terminal as the editor uses, with its habit of wrapping only when the next character comes.</summary>
    private sealed class Screen(int width) : StringWriter
    {
        private readonly List<string?[]> _rows = [new string?[width]];
        private int _row, _column;
        private string _escape = "";

        public string Text()
        {
            var text = new StringBuilder();
            foreach (var row in _rows) text.Append(string.Concat(row.Select(static cell => cell ?? "")));
            return text.ToString();
        }

        public override void Write(char value) => Write(value.ToString());

        public override void Write(string? value)
        {
            foreach (var rune in value!.EnumerateRunes()) Put(rune);
        }

        private void Put(Rune rune)
        {
            var c = rune.ToString();
            if (_escape.Length > 0 || c == "\e")
            {
                _escape += c;
                if (_escape.Length < 3 || !char.IsAsciiLetter(c[0])) return;
                var count = _escape.Length == 3 ? 1 : int.Parse(_escape[2..^1], System.Globalization.CultureInfo.InvariantCulture);
                if (c == "A") (_row, _column) = (_row - count, Math.Min(_column, width - 1));
                else if (c == "C") _column += count;
                else if (c == "J")
                {
                    Array.Clear(_rows[_row], _column, width - _column);
                    _rows.RemoveRange(_row + 1, _rows.Count - _row - 1);
                }
                _escape = "";
            }
            else if (c == "\r") _column = 0;
            else if (c == "\n") Down();
            else
            {
                var cells = LineEditor.Cells(rune);
                if (_column + cells > width)
                {
                    Down();
                    _column = 0;
                }
                _rows[_row][_column] = c;
                if (cells == 2) _rows[_row][_column + 1] = null;
                _column += cells;
            }
        }

        private void Down()
        {
            if (++_row == _rows.Count) _rows.Add(new string?[width]);
        }
    }
}
