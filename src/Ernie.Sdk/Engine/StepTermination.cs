using Ernie.Sdk.Kernels;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Engine;

/// <summary>Ends a running step from another thread: the whole of it at the next work item of a kernel, or one sequence's part.</summary>
internal sealed unsafe class StepTermination
{
    private readonly Lock _gate = new();
    private readonly List<int> _dropped = [];
    private RunOptions? _running;
    private IReadOnlyList<StepDevice> _devices = [];
    private int* _flags;

    public bool IsRequested { get; private set; }

    public void Request()
    {
        lock (_gate)
        {
            IsRequested = true;
            if (_running is null) return;
            _running.Terminate = true;
            foreach (var device in _devices) device.IsBrokenOff = true;
        }
    }

    /// <summary>Nobody waits for this sequence of the step any more. What the step computes of it is of no use afterwards.</summary>
    public void Drop(int sequence)
    {
        lock (_gate)
        {
            if (_running is null) _dropped.Add(sequence);
            else Volatile.Write(ref _flags[sequence], _flags[sequence] | (int)SequenceFlags.Dead);
        }
    }

    /// <summary>False when the step need not start.</summary>
    /// <param name="options">Of the run.</param>
    /// <param name="devices">Of its kernels.</param>
    /// <param name="flags">[sequences] <see cref="SequenceFlags"/> that the kernels read; valid until <see cref="Detach"/>.</param>
    public bool Attach(RunOptions options, IReadOnlyList<StepDevice> devices, int* flags)
    {
        lock (_gate)
        {
            if (IsRequested) return false;
            _running = options;
            _devices = devices;
            _flags = flags;
            foreach (var sequence in _dropped) flags[sequence] |= (int)SequenceFlags.Dead;
            return true;
        }
    }

    /// <summary>The options are about to be disposed.</summary>
    public void Detach()
    {
        lock (_gate)
        {
            foreach (var device in _devices) device.IsBrokenOff = false;
            _running = null;
            _devices = [];
        }
    }
}
