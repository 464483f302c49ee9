using System.Runtime.ExceptionServices;

namespace Ernie.Sdk.Kernels;

/// <summary>Spreads independent work items over threads. Inside a session this is ONNX Runtime's own pool; tests and benchmarks bring others.</summary>
internal interface IParallelRunner
{
    /// <summary>Threads that may run items at once, the caller included.</summary>
    int ThreadCount { get; }

    /// <summary>Runs <paramref name="body"/> for 0 .. count-1 in any order, returns when all are done, and rethrows the first exception.</summary>
    void For(int count, Action<int> body);
}

/// <summary>Runs items in order on the calling thread.</summary>
internal sealed class SerialRunner : IParallelRunner
{
    public static SerialRunner Instance { get; } = new();
    public int ThreadCount => 1;

    public void For(int count, Action<int> body)
    {
        for (var i = 0; i < count; i++) body(i);
    }
}

/// <summary>Runs items on the .NET thread pool, at most <paramref name="threadCount"/> at once, until <paramref name="cancellationToken"/> stops it.</summary>
internal sealed class TaskRunner(int threadCount, CancellationToken cancellationToken = default) : IParallelRunner
{
    private readonly ParallelOptions _options = new() { MaxDegreeOfParallelism = threadCount, CancellationToken = cancellationToken };
    public int ThreadCount => threadCount;

    public void For(int count, Action<int> body)
    {
        try
        {
            Parallel.For(0, count, _options, body);
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }
    }
}
