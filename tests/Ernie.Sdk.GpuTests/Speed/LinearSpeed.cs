using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Speed;

/// <summary>A linear layer on the GPU. Calls take turns with copies of the weight, so that no cache holds the next call's.</summary>
internal sealed unsafe class LinearSpeed : IDisposable
{
    private const long RotatingBytes = 512L << 20;
    private readonly CudaContext _context;
    private readonly WeightStack _weights;
    private readonly CudaModules _modules;
    private readonly CudaWorkspace _workspace;
    private readonly StreamLauncher _launcher;
    private readonly GpuClock _clock;
    private readonly int _rows, _columns;

    public LinearSpeed(CudaContext context, WeightFormat format, int rows, int columns, bool isTiny)
    {
        (_context, _rows, _columns) = (context, rows, columns);
        _clock = new GpuClock(context, isTiny);
        var copies = isTiny ? 1 : (int)Math.Max(1, RotatingBytes / format.Bytes(1, rows, columns));
        _weights = new WeightStack(context, _clock.Stream, format, 1, rows, columns, copies);
        _modules = new CudaModules(context);
        _workspace = new CudaWorkspace(context);
        _launcher = new StreamLauncher(_modules);
    }

    /// <returns>Seconds of a call, of the CPU to ask for it, bytes of weights a second, multiplications and additions a second.</returns>
    public (double Seconds, double LaunchSeconds, double BytesPerSecond, double OperationsPerSecond) Measure(int tokens)
    {
        using CudaMemory input = _context.Allocate((long)tokens * _columns * sizeof(float)), output = _context.Allocate((long)tokens * _rows * sizeof(float));
        var values = RandomTensor.Floats(new Random(6), tokens * _columns, 2);
        fixed (float* from = values)
        {
            input.CopyFrom(from, input.Bytes, 0, _clock.Stream);
            _clock.Stream.Synchronize();
        }
        var seconds = _clock.Seconds(call =>
        {
            _context.Enter();
            _launcher.Begin(_clock.Stream.Handle, _workspace);
            new CudaLaunches(_launcher).Linear(new LinearArguments { Input = (float*)input.Address, TokenCount = tokens, Weight = _weights.One(call % _weights.Count), Output = (float*)output.Address });
        });
        return (seconds, _clock.LaunchSeconds, _weights.BytesOfOne / seconds, 2.0 * tokens * _rows * _columns / seconds);
    }

    public void Dispose()
    {
        _weights.Dispose();
        _workspace.Dispose();
        _modules.Dispose();
        _clock.Dispose();
    }
}
