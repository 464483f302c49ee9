using System.Globalization;
using System.Text;
using Ernie.Sdk;

namespace Ernie.Cli;

/// <summary>
/// Progress on standard error: one line that redraws itself on a terminal, else a line every ten seconds, whether anything has changed or not: a log that stands still looks like a program that hangs. Only plain characters and a carriage return, so that it
/// can be wiped before other text and works on every terminal. Thread-safe.
/// </summary>
internal sealed class ProgressLine : IProgress<ErnieProgress>, IDisposable
{
    private const int BarWidth = 16;
    private static readonly TimeSpan s_redraw = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_plain = TimeSpan.FromSeconds(10);
    private readonly Lock _gate = new();
    private readonly CommandStreams _streams;
    private readonly string _verb;
    private readonly TimeProvider _clock;
    private readonly ITimer? _timer;
    private (double? Fraction, Func<string> Text)? _shown;
    private long _last;
    private int _drawn;

    public ProgressLine(CommandStreams streams, string verb, TimeProvider? clock = null)
    {
        (_streams, _verb, _clock) = (streams, verb, clock ?? TimeProvider.System);
        _last = _clock.GetTimestamp();
        if (!streams.ErrorIsTerminal) _timer = _clock.CreateTimer(static line => ((ProgressLine)line!).Repeat(), this, s_plain, TimeSpan.FromSeconds(1));
    }

    public void Report(ErnieProgress value)
    {
        if (value.BytesDone >= value.BytesTotal) Clear();
        else
        {
            Show(value.BytesTotal == 0 ? null : (double)value.BytesDone / value.BytesTotal, () => Bytes(value.BytesDone, value.BytesTotal, value.BytesPerSecond));
        }
    }

    /// <summary>Shows where the work stands; calls that come too fast cost nothing.</summary>
    /// <param name="fraction">0 to 1, or null where the end is not known.</param>
    /// <param name="text">What stands behind the bar.</param>
    public void Show(double? fraction, Func<string> text)
    {
        lock (_gate)
        {
            _shown = (fraction, text);
            if (_clock.GetElapsedTime(_last) < (_streams.ErrorIsTerminal ? s_redraw : s_plain)) return;
            _last = _clock.GetTimestamp();
            var percent = fraction is { } f ? string.Create(CultureInfo.InvariantCulture, $"{f * 100,3:F0} %  ") : "";
            if (!_streams.ErrorIsTerminal)
            {
                _streams.Error.WriteLine($"{_verb}: {percent.TrimStart()}{text()}");
                return;
            }
            var line = new StringBuilder(_verb).Append("  ");
            if (fraction is { } part)
            {
                var full = (int)Math.Round(Math.Clamp(part, 0, 1) * BarWidth);
                line.Append('[').Append('#', full).Append('-', BarWidth - full).Append("] ");
            }
            line.Append(percent).Append(text());
            var width = Math.Max(20, Width() - 1);
            if (line.Length > width) line.Length = width;
            var length = line.Length;
            if (length < _drawn) line.Append(' ', _drawn - length);
            _streams.Error.Write('\r' + line.ToString());
            _drawn = length;
        }
    }

    /// <summary>How many bytes of how many are done, at what rate, and when the rest will be.</summary>
    public static string Bytes(long done, long total, double bytesPerSecond)
    {
        TimeSpan? left = bytesPerSecond > 0 && (total - done) / bytesPerSecond is < 1e9 and var seconds ? TimeSpan.FromSeconds(Math.Max(0, seconds)) : null;
        return string.Create(CultureInfo.InvariantCulture, $"{Size.Text(done)} of {Size.Text(total)}, {Rate(bytesPerSecond)}{Left(left)}");
    }

    /// <summary>Wipes the line, before anything else is written to the terminal.</summary>
    public void Clear()
    {
        lock (_gate)
        {
            _shown = null;
            if (_drawn == 0) return;
            _streams.Error.Write('\r' + new string(' ', _drawn) + '\r');
            _drawn = 0;
        }
    }

    public void Dispose()
    {
        _timer?.Dispose();
        Clear();
    }

    private void Repeat()
    {
        lock (_gate)
        {
            if (_shown is var (fraction, text)) Show(fraction, text);
        }
    }

    /// <summary>With a digit behind the point where calibration makes an export slow.</summary>
    private static string Rate(double bytesPerSecond) => (bytesPerSecond / 1e6).ToString(bytesPerSecond < 10e6 ? "F1" : "F0", CultureInfo.InvariantCulture) + " MB/s";

    private static string Left(TimeSpan? remaining) => remaining switch
    {
        null => "",
        { TotalDays: >= 1 } => string.Create(CultureInfo.InvariantCulture, $", {remaining:d\\.hh\\:mm\\:ss} left"),
        { TotalHours: >= 1 } => string.Create(CultureInfo.InvariantCulture, $", {remaining:h\\:mm\\:ss} left"),
        _ => string.Create(CultureInfo.InvariantCulture, $", {remaining:m\\:ss} left"),
    };

    private static int Width()
    {
        try
        {
            return Console.WindowWidth is > 0 and var width ? width : 80;
        }
        catch (IOException)
        {
            return 80;
        }
    }
}
