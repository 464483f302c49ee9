using System.Collections.Concurrent;
using System.Diagnostics;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A program of this repository that runs until it is told to end, with a data folder of its own; what it prints is kept.</summary>
internal sealed class RunningProgram : IAsyncDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(2);

    private readonly TemporaryFolder _data = new();
    private readonly Process _process;
    private readonly ConcurrentQueue<string> _lines = new();
    private readonly SemaphoreSlim _more = new(0);

    private RunningProgram(string program, IEnumerable<string> arguments, string? path)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, program), .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true };
        start.Environment["XDG_DATA_HOME"] = _data.Path;
        if (path is not null) start.Environment["PATH"] = path;
        _process = Process.Start(start)!;
        _process.OutputDataReceived += Keep;
        _process.ErrorDataReceived += Keep;
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    public string Output => string.Join('\n', _lines);

    public int ExitCode => _process.ExitCode;

    /// <param name="program">Name of the assembly, beside the tests.</param>
    /// <param name="arguments">Its command line.</param>
    public static RunningProgram Start(string program, params IEnumerable<string> arguments) => new(program, arguments, path: null);

    /// <summary>As <see cref="Start"/>, on a machine that has no other programs.</summary>
    public static RunningProgram StartAlone(string program, params IEnumerable<string> arguments) => new(program, arguments, path: "");

    /// <summary>Waits for a line of the program's output, and fails with all of it when it ends before.</summary>
    public async Task<string> LineAsync(Func<string, bool> wanted)
    {
        using var limit = new CancellationTokenSource(s_limit);
        try
        {
            while (true)
            {
                if (_lines.FirstOrDefault(wanted) is { } line) return line;
                Assert.False(_process.HasExited, $"The program ended: {Output}");
                await _more.WaitAsync(TimeSpan.FromMilliseconds(200), limit.Token);
            }
        }
        catch (OperationCanceledException)
        {
            throw new TimeoutException($"The line did not come. Output: {Output}");
        }
    }

    /// <summary>Waits until the program ends by itself.</summary>
    public async Task EndAsync()
    {
        using var limit = new CancellationTokenSource(s_limit);
        try { await _process.WaitForExitAsync(limit.Token); }
        catch (OperationCanceledException) { throw new TimeoutException($"The program did not end. Output: {Output}"); }
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        await _process.WaitForExitAsync();
        _process.Dispose();
        _more.Dispose();
        _data.Dispose();
    }

    private void Keep(object sender, DataReceivedEventArgs e)
    {
        if (e.Data is null) return;
        _lines.Enqueue(e.Data);
        try { _more.Release(); }
        catch (ObjectDisposedException) { }
    }
}
