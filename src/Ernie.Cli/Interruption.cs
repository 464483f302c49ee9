namespace Ernie.Cli;

/// <summary>Where Ctrl+C goes while a command has something to stop that is less than itself.</summary>
internal sealed class Interruption
{
    private readonly Lock _gate = new();
    private Action? _stop;

    /// <summary>From now until the result is disposed, Ctrl+C does this and nothing else.</summary>
    public IDisposable Take(Action stop)
    {
        lock (_gate) _stop = stop;
        return new Taken(this);
    }

    /// <returns>Whether somebody took it.</returns>
    public bool Deliver()
    {
        // Inside the lock: afterwards nobody calls what its owner has let go of.
        lock (_gate)
        {
            _stop?.Invoke();
            return _stop is not null;
        }
    }

    private sealed class Taken(Interruption owner) : IDisposable
    {
        public void Dispose()
        {
            lock (owner._gate) owner._stop = null;
        }
    }
}
