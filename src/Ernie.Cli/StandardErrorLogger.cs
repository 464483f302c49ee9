using Microsoft.Extensions.Logging;

namespace Ernie.Cli;

/// <summary>Writes log lines of at least one level to standard error. Exceptions follow errors always, and other lines where debugging is asked for.</summary>
internal sealed class StandardErrorLogger(TextWriter error, LogLevel least) : ILoggerFactory, ILogger
{
    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= least && logLevel != LogLevel.None;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (!IsEnabled(logLevel)) return;
        var text = $"{logLevel switch { LogLevel.Trace => "trace", LogLevel.Debug => "debug", LogLevel.Information => "info", LogLevel.Warning => "warning", _ => "error" }}: {LibraryTerms.OfCommand(formatter(state, exception))}";
        if (exception is not null && (logLevel >= LogLevel.Error || least <= LogLevel.Debug)) text += Environment.NewLine + exception;
        lock (error) error.WriteLine(text);
    }

    public void Dispose()
    {
    }
}
