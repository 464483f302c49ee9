using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Keeps every line that is logged, of all levels.</summary>
internal sealed class RecordedLog : ILoggerProvider, ILogger
{
    public RecordedLog() => Factory = LoggerFactory.Create(builder => builder.AddProvider(this).SetMinimumLevel(LogLevel.Trace));

    public ILoggerFactory Factory { get; }
    public ConcurrentQueue<string> Lines { get; } = new();

    public ILogger CreateLogger(string categoryName) => this;
    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;
    public bool IsEnabled(LogLevel logLevel) => true;
    void ILogger.Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => Lines.Enqueue(formatter(state, exception));
    public void Dispose() { }
}
