namespace Ernie.Cli.Pulling;

/// <summary>A connection that broke, or a server that is busy: another attempt may succeed.</summary>
/// <param name="message">What happened.</param>
/// <param name="retryAfter">How long the server asks to wait.</param>
/// <param name="inner">The cause.</param>
internal sealed class InterruptedTransferException(string message, TimeSpan? retryAfter = null, Exception? inner = null) : IOException(message, inner)
{
    public TimeSpan? RetryAfter => retryAfter;
}
