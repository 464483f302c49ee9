using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Engine;

/// <summary>Ends a running step from another thread, at the next kernel boundary.</summary>
internal sealed class StepTermination
{
    private readonly Lock _gate = new();
    private RunOptions? _running;

    public bool IsRequested { get; private set; }

    public void Request()
    {
        lock (_gate)
        {
            IsRequested = true;
            if (_running is not null) _running.Terminate = true;
        }
    }

    /// <summary>False when the step need not start.</summary>
    public bool Attach(RunOptions options)
    {
        lock (_gate)
        {
            if (IsRequested) return false;
            _running = options;
            return true;
        }
    }

    /// <summary>The options are about to be disposed.</summary>
    public void Detach()
    {
        lock (_gate) _running = null;
    }
}
