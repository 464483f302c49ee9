using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Speed;

/// <summary>One layer of experts of a model's shape, on the GPU.</summary>
internal sealed unsafe class ExpertsSpeed : IDisposable
{
    /// <summary>Calls take turns with so many inputs, so that other experts are chosen.</summary>
    private const int MostInputs = 16;
    private readonly ErnieConfig _config;
    private readonly WeightStack _gateUp, _down;
    private readonly CudaMemory _router, _bias;
    private readonly CudaModules _modules;
    private readonly CudaWorkspace _workspace;
    private readonly StreamLauncher _launcher;
    private readonly CudaContext _context;
    private readonly GpuClock _clock;
    private readonly bool _isTiny;

    public ExpertsSpeed(CudaContext context, ErnieConfig config, WeightFormat format, bool isTiny)
    {
        (_context, _config, _isTiny) = (context, config, isTiny);
        _clock = new GpuClock(context, isTiny);
        _gateUp = new WeightStack(context, _clock.Stream, format, 2, config.ExpertIntermediateSize, config.HiddenSize, config.ExpertCount);
        _down = new WeightStack(context, _clock.Stream, format, 1, config.HiddenSize, config.ExpertIntermediateSize, config.ExpertCount);
        _router = Sent(Router(config));
        _bias = Sent(new float[config.ExpertCount]);
        _modules = new CudaModules(context);
        _workspace = new CudaWorkspace(context);
        _launcher = new StreamLauncher(_modules);
    }

    /// <summary>[experts, hidden]</summary>
    public static float[] Router(ErnieConfig config) => RandomTensor.Floats(new Random(4), config.ExpertCount * config.HiddenSize, 8 / Math.Sqrt(config.HiddenSize));

    /// <summary>[tokens, hidden]</summary>
    public static float[] Inputs(ErnieConfig config, int tokens) => RandomTensor.Floats(new Random(5), tokens * config.HiddenSize, 2);

    /// <param name="tokens">Tokens of a call.</param>
    public Result Measure(int tokens)
    {
        var inputs = _isTiny ? 1 : Math.Max(1, Math.Min(MostInputs, 4096 / tokens));
        var (size, chosen) = (tokens * _config.HiddenSize, tokens * _config.ExpertsPerToken);
        using var input = Sent(Inputs(_config, inputs * tokens));
        using CudaMemory output = _context.Allocate((long)size * sizeof(float)), selected = _context.Allocate((long)inputs * chosen * sizeof(int)), weights = _context.Allocate((long)chosen * sizeof(float));
        void Launch(int call)
        {
            var at = call % inputs;
            _context.Enter();
            _launcher.Begin(_clock.Stream.Handle, _workspace);
            new CudaLaunches(_launcher).Experts(new ExpertsArguments
            {
                Input = (float*)input.Address + (nint)at * size, TokenCount = tokens, HiddenSize = _config.HiddenSize, ExpertCount = _config.ExpertCount, ExpertsPerToken = _config.ExpertsPerToken,
                IntermediateSize = _config.ExpertIntermediateSize, NormMin = ExpertsCase.NormMin, Router = (float*)_router.Address, CorrectionBias = (float*)_bias.Address, ExpertEnd = _config.ExpertCount,
                GateUp = _gateUp.All, Down = _down.All, Output = (float*)output.Address, Selected = (int*)selected.Address + (nint)at * chosen, Weights = (float*)weights.Address,
            });
        }
        for (var i = 0; i < inputs; i++) Launch(i);
        var seconds = _clock.Seconds(Launch);
        var ids = new int[inputs * chosen];
        fixed (int* to = ids) selected.CopyTo(to, (long)ids.Length * sizeof(int), 0, _clock.Stream);
        _clock.Stream.Synchronize();
        var distinct = ids.Chunk(chosen).Average(static one => (double)one.Distinct().Count());
        var bytes = distinct * (_gateUp.BytesOfOne + _down.BytesOfOne) + _router.Bytes;
        var operations = 2.0 * tokens * _config.ExpertsPerToken * 3 * _config.HiddenSize * _config.ExpertIntermediateSize;
        return new Result(seconds, _clock.LaunchSeconds, distinct, bytes / seconds, operations / seconds);
    }

    public void Dispose()
    {
        _gateUp.Dispose();
        _down.Dispose();
        _router.Dispose();
        _bias.Dispose();
        _workspace.Dispose();
        _modules.Dispose();
        _clock.Dispose();
    }

    private CudaMemory Sent(float[] values)
    {
        var memory = _context.Allocate((long)values.Length * sizeof(float));
        fixed (float* from = values)
        {
            memory.CopyFrom(from, memory.Bytes, 0, _clock.Stream);
            _clock.Stream.Synchronize();
        }
        return memory;
    }

    /// <param name="Seconds">Of a call.</param>
    /// <param name="LaunchSeconds">What the CPU took to ask for it.</param>
    /// <param name="Experts">Experts that its tokens chose, on average.</param>
    /// <param name="BytesPerSecond">Their weights, and the router's.</param>
    /// <param name="OperationsPerSecond">Multiplications and additions of the tokens with their experts.</param>
    public readonly record struct Result(double Seconds, double LaunchSeconds, double Experts, double BytesPerSecond, double OperationsPerSecond);
}
